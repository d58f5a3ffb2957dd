"""Attack 2: whoever knows some prototypes in the clear fits the map that turned them."""

from __future__ import annotations

import numpy as np

from fdfed.studies.privacy.vectors import Array


def fit_isometry(plain: Array, seen: Array) -> tuple[Array, Array]:
    """Q (C, C) and t (C,) of the isometry that best takes `plain` to `seen`, both (m, C):

        Q = U Vᵀ,  U Σ Vᵀ = Σ_i (y_i - ȳ)(x_i - x̄)ᵀ,  t = ȳ - Q x̄

    Source: Schönemann 1966, doi:10.1007/BF02289451. C + 1 points in general position determine
    the map; with fewer, Q is right on their span alone.
    """
    centre, target = plain.mean(0), seen.mean(0)
    u, _, vt = np.linalg.svd((seen - target).T @ (plain - centre))
    q = u @ vt
    return q, target - q @ centre


def undo(q: Array, t: Array, seen: Array) -> Array:
    """Qᵀ (y - t) for each row y of `seen`."""
    return (seen - t) @ q

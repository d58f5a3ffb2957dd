"""Attack 4: weight gradients in the clear hold the cotangents that the map was to hide."""

from __future__ import annotations

import numpy as np

from fdfed.studies.privacy.vectors import Array


def fit_by_regression(gradients: Array, cotangents: Array) -> Array:
    """Q (C, C) from the gradient of a tap's bias and the blinded cotangents, both (steps, C).

    In lockstep a bias that is added to the tap has the gradient y = r + Qᵀ g, with g the cotangent
    that the coordinator itself computed and r from the segmentation loss. Over steps r averages
    out: least squares of y on g, then the nearest orthogonal matrix.

        A = argmin Σ_k |y_k - A g_k|²,  Q = U Vᵀ of Aᵀ = U Σ Vᵀ
    """
    transposed, *_ = np.linalg.lstsq(cotangents, gradients, rcond=None)
    u, _, vt = np.linalg.svd(transposed)
    nearest: Array = u @ vt
    return nearest

"""A curious site inverts its own cotangent to find its peer's prototypes."""

from __future__ import annotations

import numpy as np

from fdfed.studies.privacy.vectors import Array


def peer_by_inversion(own: Array, cotangent: Array) -> Array:
    """The prototypes (F_t, B_t) of the only peer, (2 C,), from one's own and one's cotangent.

    With z = (F_s - B_t, F_t - B_s) the derivatives of -log |z|² (Eq. 4) at F_s and B_s are
    -2 a / |z|² and 2 b / |z|², z = (a, b): an inversion, which is its own inverse. Exact for two
    sites; with more, the cotangent is a mean over peers and the result a mixture of them.

    Args:
        own: (F_s, B_s) of one tap, (2 C,).
        cotangent: ∂L/∂(F_s, B_s), (2 C,).
    """
    half = len(own) // 2
    turned = np.concatenate([cotangent[:half], -cotangent[half:]])
    z = -2 * turned / (turned @ turned)
    return np.concatenate([z[half:] + own[half:], own[:half] - z[:half]])

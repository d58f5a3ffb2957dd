"""Attack 3: whoever knows how prototypes are distributed fits the map from blinded ones alone."""

from __future__ import annotations

import numpy as np

from fdfed.studies.privacy.vectors import Array


def fit_by_principal_axes(known: Array, seen: Array) -> tuple[Array, Array]:
    """Q (C, C) and t (C,), as in `fit_isometry`, from samples without any pairing.

    A rotation turns the principal axes with the points: the axes of `seen` (m, C), in the order of
    their variances, are those of `known` (n, C), each up to its sign. The sign is the one that
    gives both projections the same skewness.

        Q = U S Vᵀ,  t = ȳ - Q x̄      (U, V: axes of seen and known; S = diag(±1))

    Source: Guo & Wu 2007 (AK-ICA), who match independent axes; Giannella, Liu & Kargupta,
    arXiv:0911.2942, for principal ones. Axes whose variances are nearly equal are not told apart.
    """
    centre, target = known.mean(0), seen.mean(0)
    v, u = _axes(known - centre), _axes(seen - target)
    signs = np.sign(_skewness((known - centre) @ v) * _skewness((seen - target) @ u))
    q = (u * np.where(signs == 0, 1.0, signs)) @ v.T
    return q, target - q @ centre


def _axes(centred: Array) -> Array:
    """Principal axes as columns, by falling variance."""
    _, vectors = np.linalg.eigh(centred.T @ centred)
    falling: Array = vectors[:, ::-1]
    return falling


def _skewness(projections: Array) -> Array:
    scale = np.square(projections).mean(0) ** 1.5
    cubes: Array = (projections**3).mean(0)
    skewness: Array = np.divide(cubes, scale, out=np.zeros_like(scale), where=scale > 0)
    return skewness

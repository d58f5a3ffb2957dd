"""Attack 1: the coordinator reads distances, which blinding leaves as they are by design."""

from __future__ import annotations

import numpy as np

from fdfed.studies.privacy.vectors import Array


def squared_distances(points: Array) -> Array:
    """D_ij = |x_i - x_j|², (n, n), of points (n, C)."""
    centred = points - points.mean(0)
    squares = np.square(centred).sum(-1)
    distances: Array = squares[:, None] + squares[None] - 2 * centred @ centred.T
    return np.maximum(distances, 0)


def points_from_distances(distances: Array, channels: int) -> Array:
    """Points (n, C) with these squared distances, their mean at 0: all that distances say.

        B = -½ J D J,  J = I - 1 1ᵀ/n,  X = V √Λ      (B = V Λ Vᵀ)

    Source: classical scaling, Torgerson 1952, doi:10.1007/BF02288916. The result is one of all
    rotations and reflections that fit alike, so it shows a configuration's shape, not its place.
    """
    n = len(distances)
    centring = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centring @ distances @ centring)
    points = vectors * np.sqrt(np.maximum(values, 0))
    kept = points[:, ::-1][:, :channels]
    return np.pad(kept, ((0, 0), (0, channels - kept.shape[1])))


def most_alike(distances: Array) -> tuple[int, int]:
    """The two points that lie closest together."""
    masked = distances + np.diag(np.full(len(distances), np.inf))
    first, second = divmod(int(masked.argmin()), len(distances))
    return min(first, second), max(first, second)

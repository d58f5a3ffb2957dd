"""What a site releases of its prototypes once a round: one noisy mean of all its units.

    release = (Σ_i clip_R(v_i) + N(0, σ² R² I)) / n̄

v_i is the joint vector of unit i: projected F and B of all taps, mean over the unit's images. One
unit, added or removed, changes the sum by a vector of norm R at most, whatever its images are; n̄
is a public number and no count of what is valid.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

from fdfed.config import MethodPlan
from fdfed.privacy.projection import project
from fdfed.privacy.randomness import Randomness
from fdfed.prototypes import masked_prototypes, unit_vectors


def joint_vectors(
    taps: Mapping[str, Float[Tensor, "batch _ _ _"]],
    mask: Shaped[Tensor, "batch 1 height width"],
    projection: Mapping[str, Float[Tensor, "dimensions channels"]],
    method: MethodPlan,
) -> Float[Tensor, "batch size"]:
    """[P_1 F_1 | … | P_L F_L | P_1 B_1 | … | P_L B_L] of each image; carries the gradient.

    Both halves of a tap are zeros for an image that lacks one of its regions there. It still counts
    in n̄: how many do not is a number about the images, and is not released.

    Args:
        taps: feature maps by name, of all taps of `projection`.
        mask: 1 = foreground.
        projection: from `fdfed.privacy.projection.projections`.
        method: pooling, and `normalise` before the projection.
    """
    foregrounds, backgrounds = {}, {}
    for name in projection:
        foreground, background, valid = masked_prototypes(
            taps[name], mask, pooling=method.pooling, mask_pooling=method.mask_pooling
        )
        if method.bound == "normalise":
            foreground, background = unit_vectors(foreground), unit_vectors(background)
        # where, not a product: what is not valid may hold an infinity.
        rows = valid.unsqueeze(1)
        foregrounds[name], backgrounds[name] = foreground.where(rows, 0), background.where(rows, 0)
    return torch.cat((project(projection, foregrounds), project(projection, backgrounds)), dim=1)


def clipped(
    vectors: Float[Tensor, "units size"], *, max_norm: float
) -> Float[Tensor, "units size"]:
    """Each row scaled down to a norm of at most R; carries the gradient, also of the scaling.

    clip_R(v) = v · min(1, R / |v|); a row that is not finite becomes zeros, so that it is bounded
    like every other.
    """
    finite = vectors.isfinite().all(1, keepdim=True)
    vectors = vectors.where(finite, 0)
    # Scaled by the largest entry first: |v|² overflows for entries whose norm does not.
    largest = vectors.detach().abs().amax(1, keepdim=True).clamp_min(1)
    norms = largest * (vectors / largest).norm(dim=1, keepdim=True)
    factors: Tensor = max_norm / norms.clamp_min(max_norm)
    return vectors * factors


def noisy_mean(
    vectors: Float[Tensor, "units size"],
    *,
    max_norm: float,
    noise_multiplier: float,
    count: int,
    randomness: Randomness,
) -> NDArray[np.float64]:
    """The release, in fp64: `(size,)`.

    Args:
        vectors: v_i of every unit, not clipped.
        max_norm: R.
        noise_multiplier: σ.
        count: n̄, a public number.
        randomness: the system's in production.
    """
    total = clipped(vectors.double(), max_norm=max_norm).sum(0).cpu().numpy()
    noise = randomness.gaussian(total.size, std=noise_multiplier * max_norm)
    return np.asarray((total + noise) / count, dtype=np.float64)

"""The loss of each image by itself: no term that couples the images of a batch.

    L_i = L_seg,i + Σ_l α_l ( L_fd,l,i + (N / n_s) ⟨clip_R(v_i)_l, g_l⟩ )

What `fdfed.training.step` computes for a batch sums over all its pixels, averages over its valid
images, and swaps its mean prototypes; each would make one unit's gradient depend on the others, so
that clipping it would bound nothing. g are cotangents that the coordinator derived from the noisy
prototypes of an earlier round: constants, the same for every image. The mean over images of the
last product is ⟨mean prototype, g⟩, as in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.exchange import TapLayout
from fdfed.losses import feature_discrepancy_loss, segmentation_loss
from fdfed.networks import SegmentationNetwork, Taps
from fdfed.privacy.prototype_release import clipped, joint_vectors
from fdfed.prototypes import masked_prototypes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FixedTerm:
    """The cross-site term of a round: constant cotangents of the clipped, projected prototypes."""

    projection: Mapping[str, Tensor]
    layout: TapLayout
    """Of the projected prototypes."""
    cotangents: NDArray[np.float64]
    """`(size,)`, in `layout`."""
    scale: float
    """N / n_s."""
    max_norm: float
    """R of the release that the cotangents belong to."""


def image_losses(
    network: SegmentationNetwork,
    image: Float[Tensor, "batch channels height width"],
    mask: Float[Tensor, "batch 1 height width"],
    *,
    plan: RunPlan,
    alpha: NDArray[np.float64] | None,
    term: FixedTerm | None,
) -> Float[Tensor, " batch"]:
    """L_i of each image.

    Args:
        alpha: α by tap; None in phase 1, when L_i is L_seg,i alone. A tap with α = 0 is left out.
        term: the cross-site term; None without one.
    """
    logits, taps = network.forward_with_taps(image)
    each = range(len(image))
    losses = torch.stack([segmentation_loss(logits[i : i + 1], mask[i : i + 1]) for i in each])
    if alpha is None:
        return losses
    for weight, name in zip(alpha, network.tap_names, strict=True):
        if weight > 0:
            losses = losses + weight * _discrepancies(taps[name], mask, plan)
    if term is None or not (alpha > 0).any():
        return losses
    weighted = np.tile(np.repeat(alpha, term.layout.channels), 2) * term.scale * term.cotangents
    vectors = clipped(
        joint_vectors(_with_weight(taps, network, alpha), mask, term.projection, plan.method),
        max_norm=term.max_norm,
    )
    return losses + vectors @ torch.from_numpy(weighted).to(vectors)


def _discrepancies(
    features: Float[Tensor, "batch channels tap_height tap_width"],
    mask: Float[Tensor, "batch 1 height width"],
    plan: RunPlan,
) -> Float[Tensor, " batch"]:
    """L_fd of each image at one tap; zero for an image without both regions."""
    method = plan.method
    F, B, valid = masked_prototypes(
        features, mask, pooling=method.pooling, mask_pooling=method.mask_pooling
    )
    rows = [slice(i, i + 1) for i in range(len(mask))]
    return torch.stack(
        [
            feature_discrepancy_loss(F[i], B[i], valid[i], bound=method.bound, eps=method.eps)
            for i in rows
        ]
    )


def _with_weight(taps: Taps, network: SegmentationNetwork, alpha: NDArray[np.float64]) -> Taps:
    """The taps, those with α = 0 cut off from the graph: they count in the norm alone."""
    weights = zip(network.tap_names, alpha, strict=True)
    return {name: taps[name] if weight > 0 else taps[name].detach() for name, weight in weights}

"""How hard each tap pulls at a network, beside the segmentation loss.

The slope of -log D grows as 1/√D, so a tap whose regions are close pulls harder than the others
with the same α. This report says by how much.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fdfed.losses.bounds import Bound
from fdfed.losses.discrepancy import feature_discrepancy_loss
from fdfed.losses.segmentation import segmentation_loss
from fdfed.networks import SegmentationNetwork
from fdfed.prototypes import MaskPooling, Pooling, masked_prototypes


@dataclass(frozen=True, slots=True, kw_only=True)
class TapScale:
    """One tap on one batch; norms are Euclidean, over all entries."""

    loss: float
    """L_fd,l; NaN where no image of the batch has both regions."""
    valid: float
    """Share of the batch's images with both regions."""
    at_weights: float
    """‖∂L_fd,l/∂θ‖, θ all weights of the network, before α weighs it."""
    at_tap: float
    """‖∂L_fd,l/∂F_l‖, F_l the tap's feature map of the whole batch."""
    share: float
    """α_l ‖∂L_fd,l/∂θ‖ / ‖∂L_seg/∂θ‖: how much of the step is the tap's; NaN without an α."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientScales:
    """What `gradient_scales` measured."""

    segmentation: float
    """‖∂L_seg/∂θ‖."""
    taps: Mapping[str, TapScale]


def gradient_scales(
    network: SegmentationNetwork,
    image: Float[Tensor, "batch channels height width"],
    mask: Float[Tensor, "batch 1 height width"],
    *,
    alpha: Mapping[str, float] | None = None,
    pooling: Pooling = "map",
    mask_pooling: MaskPooling = "max",
    bound: Bound = "none",
    eps: float = 1e-6,
) -> GradientScales:
    """The gradients of L_seg and of every tap's L_fd on one batch.

    In the mode that the network is in: `network.train()` first for what a training step does. The
    network is left as it was found, with its running statistics; no `.grad` is touched. One
    backward pass a tap.

    Args:
        network: on the device of the batch.
        alpha: α by tap, such as a model file's; None leaves the shares open.
        pooling, mask_pooling, bound, eps: as in `masked_prototypes` and
            `feature_discrepancy_loss`.
    """
    buffers = copy.deepcopy(dict(network.named_buffers()))
    weights = list(network.parameters())
    logits, taps = network.forward_with_taps(image)
    segmentation = gradient_norm(segmentation_loss(logits, mask), weights)
    scales = {}
    for name, features in taps.items():
        foreground, background, valid = masked_prototypes(
            features, mask, pooling=pooling, mask_pooling=mask_pooling
        )
        loss = feature_discrepancy_loss(foreground, background, valid, bound=bound, eps=eps)
        at_weights = gradient_norm(loss, weights)
        pull = math.nan if alpha is None else alpha[name] * at_weights
        scales[name] = TapScale(
            loss=float(loss.detach()) if bool(valid.any()) else math.nan,
            valid=float(valid.float().mean()),
            at_weights=at_weights,
            at_tap=gradient_norm(loss, [features]),
            share=pull / segmentation if segmentation > 0 else math.nan,
        )
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
    return GradientScales(segmentation=segmentation, taps=scales)


def gradient_norm(loss: Float[Tensor, ""], tensors: Sequence[Tensor]) -> float:
    """‖∂loss/∂tensors‖ over all their entries, 0 where it depends on none; the graph is kept."""
    if not loss.requires_grad:
        return 0.0
    found = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
    return math.sqrt(sum(float(g.double().square().sum()) for g in found if g is not None))

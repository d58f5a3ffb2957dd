"""The feature discrepancy loss within a site (Eq. 1)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fdfed.losses.bounds import CAP_WITHIN, Bound, negative_log
from fdfed.prototypes import unit_vectors


def feature_discrepancy_loss(
    foreground: Float[Tensor, "batch *taps channels"],
    background: Float[Tensor, "batch *taps channels"],
    valid: Bool[Tensor, " batch *taps"],
    *,
    bound: Bound = "none",
    eps: float = 1e-6,
) -> Float[Tensor, "*taps"]:
    """L_fd of a tap, the mean over the batch's valid images of

        -log(|F_g - B_g|² + ε)

    and a zero that is connected to the graph where no image is valid.

    Source: Eq. 1 of the paper. Departures: ε inside the logarithm, which keeps value and gradient
    finite where F_g = B_g (the gradient's norm is at most √(2/ε)); the mean over images, which the
    paper leaves open; and `bound`, see `fdfed.losses.bounds`. With `normalise` the loss is at
    least -log(4 + ε), and does not change when the features are scaled; with `cap` it is at least
    that too.

    Args:
        foreground: F_g of each image, from `masked_prototypes`; carries the gradient. With an axis
            for taps, which `fdfed.tap_prototypes` gives, all of them are computed at once.
        background: B_g of each image.
        valid: images for which both exist.
        bound: `none` is the literal equation.
        eps: ε, in the unit of squared features.
    """
    dtype = torch.promote_types(foreground.dtype, torch.float32)
    F, B = foreground.to(dtype), background.to(dtype)
    if bound == "normalise":
        F, B = unit_vectors(F), unit_vectors(B)
    # An invalid row is replaced before the logarithm: 0 times an infinite slope would be NaN.
    difference = (F - B).where(valid.unsqueeze(-1), 0)
    squared = difference.square().sum(-1)
    losses = negative_log(squared, cap=CAP_WITHIN if bound == "cap" else None, eps=eps)
    return losses.where(valid, 0).sum(0) / valid.sum(0).clamp_min(1)

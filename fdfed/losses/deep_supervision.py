"""Deep supervision (L_deeps): every decoder predicts the mask, and each prediction is scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from fdfed.errors import InvalidInput

INITIAL_WEIGHT: Final = 0.3
"""η at the start of training, for every head. The source's values are of its own two heads."""


def deep_supervision_loss(
    logits: Mapping[str, Float[Tensor, "batch 1 _ _"]],
    mask: Shaped[Tensor, "batch 1 height width"],
    *,
    weight: float,
) -> Float[Tensor, ""]:
    """η Σ_d BCE(up(z_d), y) over the hidden layers d, to be added to L_seg.

    Source: Dou et al. 2016, arXiv:1607.00582, which scores hidden layers by cross-entropy
    at the image's size. Departures: maps are brought to that size by bilinear interpolation, where
    the source learns transposed convolutions; one η for all layers.

    Args:
        logits: one map for each hidden layer, at its own size; from `DeepSupervision`.
        mask: 1 = foreground.
        weight: η, see `supervision_weight`.

    Raises:
        InvalidInput: if there is no map.
    """
    if not logits:
        raise InvalidInput(
            "deep supervision got no map to score; give it the logits of at least one decoder"
        )
    losses = []
    for z in logits.values():
        full = z.to(torch.promote_types(z.dtype, torch.float32))
        if full.shape[-2:] != mask.shape[-2:]:
            full = functional.interpolate(
                full, size=mask.shape[-2:], mode="bilinear", align_corners=False
            )
        losses.append(functional.binary_cross_entropy_with_logits(full, mask.to(full.dtype)))
    return weight * torch.stack(losses).sum()


def supervision_weight(step: int, steps: int, *, initial: float = INITIAL_WEIGHT) -> float:
    """η of `step` (counted from 0): `initial` at first, zero after `steps`, linear between.

    Source: Dou et al. 2016 lower η during training. Departure: the linear law, for all heads alike.

    Raises:
        InvalidInput: if there are no steps to decay over.
    """
    if steps < 1:
        raise InvalidInput(
            f"the weight of deep supervision cannot decay over {steps} steps; give at least 1"
        )
    return initial * max(0.0, 1 - step / steps)


class DeepSupervision(nn.Module):
    """A 1x1 convolution to one logit for each decoder tap."""

    def __init__(self, tap_channels: Mapping[str, int]) -> None:
        """See the class.

        Args:
            tap_channels: of the network; only its decoder taps (`Dec…`) get a head.
        """
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                name: nn.Conv2d(channels, 1, 1)
                for name, channels in tap_channels.items()
                if name.startswith("Dec")
            }
        )

    def forward(self, taps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The logits `(batch, 1, h_d, w_d)` of each decoder tap."""
        return {name: head(taps[name]) for name, head in self.heads.items()}

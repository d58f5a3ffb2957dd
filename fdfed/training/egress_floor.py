"""The floor under what leaves a site: no prototype of a few pixels or of a single image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fdfed.config import ExchangePlan


@dataclass(frozen=True, slots=True)
class EgressFloor:
    """Which taps of one batch may be sent; on whatever else protects them.

    A batch-mean prototype over one image is that image's, and one over a few pixels is nearly the
    features at one place. Pixels are those of the network's input, so that the floor means the
    same at every depth.
    """

    pixels: Float[Tensor, "batch 2"]
    """Foreground and background pixels of each image."""
    plan: ExchangePlan

    @classmethod
    def of(cls, mask: Shaped[Tensor, "batch 1 height width"], plan: ExchangePlan) -> EgressFloor:
        """The floor for a batch with these annotations, 1 = foreground."""
        foreground = mask.detach().flatten(1).sum(1, dtype=torch.float32)
        return cls(torch.stack((foreground, mask[0].numel() - foreground), dim=1), plan)

    def admits(self, valid: Bool[Tensor, " batch"]) -> Bool[Tensor, ""]:
        """Whether a prototype that is the mean over these images reaches both minimum counts."""
        pixels = self.pixels.where(valid.unsqueeze(1), 0).sum(0)
        enough: Tensor = pixels.min() >= self.plan.min_pixels
        return enough & (valid.sum() >= self.plan.min_images)

"""The floor under what leaves a site: no prototype of a few pixels, images or patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fdfed.config import ExchangePlan


@dataclass(frozen=True, slots=True)
class EgressFloor:
    """Which taps of one batch may be sent; on whatever else protects them.

    A batch-mean prototype over one image is that image's, one over the images of one patient is
    that patient's, and one over a few pixels is nearly the features at one place. Pixels are those
    of the network's input, so that the floor means the same at every depth.
    """

    pixels: Float[Tensor, "batch 2"]
    """Foreground and background pixels of each image."""
    shows: Bool[Tensor, "batch patients"]
    """Whether an image is of a patient. One that comes twice in a batch is one patient's still."""
    plan: ExchangePlan

    @classmethod
    def of(
        cls,
        mask: Shaped[Tensor, "batch 1 height width"],
        plan: ExchangePlan,
        *,
        patients: Sequence[str],
    ) -> EgressFloor:
        """The floor for a batch with these annotations, 1 = foreground.

        Args:
            patients: whose each image is; where that is not known, the image's own name.
        """
        foreground = mask.detach().flatten(1).sum(1, dtype=torch.float32)
        numbers = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
        shows = torch.zeros(len(mask), len(numbers), dtype=torch.bool)
        for row, patient in zip(shows, patients, strict=True):
            row[numbers[patient]] = True
        background = mask[0].numel() - foreground
        return cls(torch.stack((foreground, background), dim=1), shows.to(mask.device), plan)

    def admits(self, valid: Bool[Tensor, " batch *taps"]) -> Bool[Tensor, "*taps"]:
        """Whether a prototype that is the mean over these images reaches all minimum counts, for
        each tap."""
        rows = valid.unsqueeze(-1)
        between = (1,) * (valid.ndim - 1)
        pixels = self.pixels.view(len(valid), *between, 2).where(rows, 0).sum(0)
        enough: Tensor = pixels.amin(-1) >= self.plan.min_pixels
        shown = self.shows.view(len(valid), *between, -1) & rows
        enough = enough & (shown.any(0).sum(-1) >= self.plan.min_patients)
        return enough & (valid.sum(0) >= self.plan.min_images)

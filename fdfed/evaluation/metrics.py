"""Overlap of a predicted with an annotated foreground, per image, and its aggregate over images.

A site keeps the scores of single images; what it hands on is an `Aggregate`, and only over a
minimum count of images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fdfed.errors import InvalidInput

THRESHOLD: Final = 0.5
"""Probability from which a pixel counts as foreground."""

QUARTILES_FROM: Final = 10
"""Fewest images over which quartiles are given."""

EmptyAnnotation = Literal["exclude", "one"]


@dataclass(frozen=True, slots=True)
class ImageScore:
    """Overlap on one image, as fractions in [0, 1]."""

    name: str
    dice: float
    """2 |P ∩ G| / (|P| + |G|) for predicted pixels P and annotated pixels G; NaN: excluded."""
    iou: float
    """|P ∩ G| / |P ∪ G|; NaN: excluded."""
    foreground_pixels: int
    """|G|, in pixels of the scored mask."""
    empty: bool
    """Whether the annotation has no foreground (|G| = 0)."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A score over a site's images: all that a coordinator may receive of them."""

    n: int
    """Images that entered the mean."""
    n_empty: int
    """Images left out because their annotation is empty."""
    mean: float
    sd: float
    """Sample standard deviation (divisor n - 1); 0 for a single image, never NaN."""
    q25: float
    """Quartiles are NaN below `QUARTILES_FROM` images, where each would be one image's score."""
    median: float
    q75: float


def foreground(
    logits: Float[Tensor, "batch 1 height width"], *, threshold: float = THRESHOLD
) -> Bool[Tensor, "batch 1 height width"]:
    """Pixels whose probability, the sigmoid of the logit, is at least `threshold`.

    Raises:
        InvalidInput: if a logit is NaN: the comparison would quietly call it background.
    """
    if torch.isnan(logits).any():
        raise InvalidInput(
            f"logits hold {int(torch.isnan(logits).sum())} NaN of {logits.numel()} values, so no "
            "mask can be read from them; the weights have diverged: lower learning_rate, or take "
            "an earlier model"
        )
    # Half precision rounds a sigmoid just under the threshold up to it.
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return torch.sigmoid(logits.to(dtype)) >= threshold


@torch.no_grad()
def image_scores(
    logits: Float[Tensor, "batch 1 height width"],
    mask: Tensor,
    names: Sequence[str],
    *,
    empty: EmptyAnnotation = "exclude",
) -> tuple[ImageScore, ...]:
    """Dice and IoU of each image, at probability 0.5, by MONAI's `compute_dice` and `compute_iou`.

    An image whose annotation is empty leaves 0/0 or a score of 0 that says nothing about overlap.
    With `empty="exclude"` it scores NaN, which `aggregate` leaves out and counts. With
    `empty="one"` it scores 1 if the prediction is empty too, else 0.

    Args:
        logits: before the sigmoid.
        mask: the annotation, 1 = foreground, of the same shape; any dtype.
        names: one per image, for the site's own tables.

    Raises:
        InvalidInput: if shapes or the number of names differ, the mask holds other values than 0
            and 1, or a logit is NaN.
    """
    _check(logits, mask, names)
    if not names:  # MONAI stacks the images, and cannot stack none
        return ()
    predicted = foreground(logits).float()
    annotated = mask.to(device=logits.device, dtype=torch.float32)
    skip = empty == "exclude"
    # MONAI takes seconds to import, and most commands score nothing.
    from monai.metrics.meandice import compute_dice  # noqa: PLC0415
    from monai.metrics.meaniou import compute_iou  # noqa: PLC0415

    dice = compute_dice(predicted, annotated, ignore_empty=skip).flatten().tolist()
    iou = compute_iou(predicted, annotated, ignore_empty=skip).flatten().tolist()
    # Counted as integers: fp32 sums are exact only up to 2^24 pixels.
    pixels = annotated.bool().flatten(1).sum(1).tolist()
    return tuple(
        ImageScore(name, d, j, int(count), count == 0)
        for name, d, j, count in zip(names, dice, iou, pixels, strict=True)
    )


def _check(logits: Tensor, mask: Tensor, names: Sequence[str]) -> None:
    if logits.ndim != 4 or logits.shape[1] != 1 or logits.shape != mask.shape:
        raise InvalidInput(
            f"image_scores got logits {tuple(logits.shape)} and mask {tuple(mask.shape)}; both "
            "must be (batch, 1, height, width). Resize the logits to the mask first."
        )
    if len(names) != logits.shape[0]:
        raise InvalidInput(
            f"image_scores got {len(names)} names for {logits.shape[0]} images; give one each"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise InvalidInput(
            f"mask holds values from {mask.min().item()} to {mask.max().item()}, but only 0 "
            "(background) and 1 (foreground) have a meaning; divide a 0/255 mask by 255 first"
        )


def aggregate(values: Iterable[float], *, min_count: int) -> Aggregate | None:
    """Mean, spread and quartiles of `values`, or `None` over fewer than `min_count` images.

    NaN is an excluded image: counted in `n_empty`, and in nothing else. Quartiles interpolate
    linearly between order statistics; over few images a quartile is the score of one of them (at
    n = 5 all three are), so they are NaN below `QUARTILES_FROM` images.

    Raises:
        InvalidInput: if `min_count` is below 1 or a value is infinite.
    """
    if min_count < 1:
        raise InvalidInput(f"min_count is {min_count}; an aggregate needs at least 1 image")
    everything = list(values)
    kept = [value for value in everything if not math.isnan(value)]
    if any(math.isinf(value) for value in kept):
        raise InvalidInput("a score is infinite; Dice and IoU are fractions from 0 to 1")
    if len(kept) < min_count:
        return None
    scores = np.asarray(kept, dtype=np.float64)
    quartiles = np.quantile(scores, (0.25, 0.5, 0.75)).tolist()
    q25, median, q75 = quartiles if len(kept) >= QUARTILES_FROM else (math.nan,) * 3
    return Aggregate(
        n=len(kept),
        n_empty=len(everything) - len(kept),
        mean=float(scores.mean()),
        sd=float(scores.std(ddof=1)) if len(kept) > 1 else 0.0,
        q25=q25,
        median=median,
        q75=q75,
    )

"""Overlap of a predicted with an annotated foreground, per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fdfed.errors import InvalidInput
from fdfed.evaluation.aggregates import ImageScore

THRESHOLD: Final = 0.5
"""Probability from which a pixel counts as foreground."""

EmptyAnnotation = Literal["exclude", "one"]


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

"""Pictures that show nearly the same, whatever their size, brightness or orientation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32

from fdfed.data.loading import resize_image, to_channels

SIDE: Final = 32
"""Of the thumbnails that are compared, in pixels."""
THRESHOLD: Final = 0.95
"""Correlation from which two pictures count as near-duplicates. Among the 454 images of the four
development sites the highest between two patients is 0.86; of one patient, a scan and the next
one, it reaches 0.9999."""

_BLOCK: Final = 512
"""Thumbnails that are compared with all others at once, to bound the memory."""


class NearDuplicates(NamedTuple):
    """Two pictures, by their place in the list, and how alike they are."""

    first: int
    second: int
    correlation: float


def thumbnail(
    image: Float[np.ndarray, "height width channels"],
) -> Float32[np.ndarray, "32 32"]:
    """The picture in grey, `SIDE` pixels wide and high, less its mean and over its length.

    The product of two thumbnails is then the correlation of their levels, which a change of
    brightness, contrast or size, or another compression, leaves near 1. A picture of one level has
    no pattern to compare and gives zeros.
    """
    picture = torch.from_numpy(np.array(image.transpose(2, 0, 1), dtype=np.float32))
    grey = resize_image(to_channels(picture, 1), shape=(SIDE, SIDE))[0]
    centred = (grey - grey.mean()).double()
    length = float(centred.norm())
    # Below a thousandth of a level a pixel, what is left is rounding.
    if length < 1e-3 / 255 * SIDE:
        return np.zeros((SIDE, SIDE), dtype=np.float32)
    thumb: Float32[np.ndarray, "32 32"] = (centred / length).float().numpy()
    return thumb


def near_duplicates(
    thumbnails: Float32[np.ndarray, "pictures 32 32"], *, threshold: float = THRESHOLD
) -> list[NearDuplicates]:
    """All pairs whose correlation reaches `threshold` in one of the eight orientations of the one
    picture to the other (turned by 90°, mirrored); the most alike first."""
    found = []
    flat = thumbnails.reshape(len(thumbnails), SIDE**2)
    turned = [view.reshape(flat.shape) for view in _orientations(thumbnails)]
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK]
        highest = np.full((len(block), len(flat)), -1.0, dtype=np.float32)
        for views in turned:
            np.maximum(highest, block @ views.T, out=highest)
        rows, columns = np.nonzero(highest >= threshold)
        found += [
            NearDuplicates(start + int(i), int(j), min(1.0, float(highest[i, j])))
            for i, j in zip(rows, columns, strict=True)
            if start + i < j
        ]
    return sorted(found, key=lambda pair: (-pair.correlation, pair.first, pair.second))


def _orientations(
    thumbnails: Float32[np.ndarray, "pictures 32 32"],
) -> Iterator[Float32[np.ndarray, "pictures 32 32"]]:
    for quarter_turns in range(4):
        turned = np.rot90(thumbnails, quarter_turns, axes=(1, 2))
        yield np.ascontiguousarray(turned)
        yield np.ascontiguousarray(turned[:, :, ::-1])

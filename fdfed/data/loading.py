"""From files to tensors: MONAI's chain with this project's reading and resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from monai.transforms.compose import Compose
from monai.transforms.utility.dictionary import Lambdad, SelectItemsd
from torch import Tensor
from torch.nn import functional

from fdfed.data.pictures import LUMA, picture_size, read_image
from fdfed.data.unusable import UnusablePicture
from fdfed.errors import DataError, InvalidInput


def loading_chain(
    keys: Sequence[str], *, size: int, in_channels: int, crop: int | None = None
) -> Compose:
    """MONAI transform from what reads image and mask to `{"image": tensor, "mask": tensor}`.

    It takes `{"image": case.load_image, "mask": case.load_mask}`. MONAI's own readers swap the
    spatial axes unless told otherwise, know neither TIFF nor what a mask's levels mean, and hand on
    16-bit levels unscaled.

    The image is float32 (in_channels, size, size) in [0, 1]; the mask float32 (1, size, size) of
    0 and 1. Both are stretched to the square: the aspect ratio is not kept, as in the paper.

    With `crop` an image keeps its own height and width instead, unless a side is shorter than
    `crop`: it is then enlarged, aspect ratio kept, until the shorter side has that length.

    Args:
        keys: which of the two entries the dictionaries have.
        size: side of the square in pixels.
        in_channels: 1 (colour becomes BT.601 grey) or 3 (grey is repeated).
        crop: shortest side allowed, in pixels; None resizes to the square.
    """
    _check(size, in_channels)
    chain: list[Any] = []
    for key in keys:
        if key == "mask":
            steps = [_read, lambda mask: resize_mask(mask, shape=_shape(mask, size, crop))]
        else:
            steps = [
                _read,
                lambda image: to_channels(image, in_channels),
                lambda image: resize_image(image, shape=_shape(image, size, crop)),
            ]
        # Plain tensors: a MetaTensor would cost more in each training step than the step's own
        # flips, and would carry the file's path into everything computed from it.
        chain += [Lambdad(key, step, track_meta=False) for step in steps]
    chain.append(SelectItemsd(keys))
    return Compose(chain)


def _read(read: Callable[[], np.ndarray]) -> Float[Tensor, "c h w"]:
    pixels = np.atleast_3d(read())  # (height, width, channels)
    # A copy: decoders hand out read-only memory.
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), dtype=np.float32, order="C"))


def load_image(
    path: Path, *, size: int, in_channels: int, crop: int | None = None
) -> Float[Tensor, "c h w"]:
    """One image as the network sees it, the same as `loading_chain` makes it for evaluation:
    float32 (in_channels, height, width) in [0, 1]. `image_size` gives the size to return a
    prediction to.

    Raises:
        DataError: naming the file, if it cannot be read.
    """
    _check(size, in_channels)
    try:
        image = torch.from_numpy(read_image(path)).permute(2, 0, 1)
    except UnusablePicture as err:
        raise DataError(f"{path}: {err.reason}; {err.remedy}") from err
    return resize_image(to_channels(image, in_channels), shape=_shape(image, size, crop))


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file in pixels.

    Raises:
        DataError: naming the file, if it cannot be read.
    """
    try:
        return picture_size(path)
    except UnusablePicture as err:
        raise DataError(f"{path}: {err.reason}; {err.remedy}") from err


def to_channels(image: Float[Tensor, "c h w"], in_channels: int) -> Float[Tensor, "d h w"]:
    """`image` with `in_channels` channels: grey is repeated, colour is weighted to BT.601 grey."""
    if image.shape[0] == in_channels:
        return image
    if in_channels == 1:
        return (torch.from_numpy(LUMA)[:, None, None] * image).sum(0, keepdim=True)
    return image.expand(in_channels, -1, -1).contiguous()


def resize_image(
    image: Float[Tensor, "c h w"], *, shape: tuple[int, int]
) -> Float[Tensor, "c height width"]:
    """Bilinear, with the filter widened when it shrinks (no aliasing of speckle or texture).

    MONAI's `Resize(anti_aliasing=True)` is not used: it smooths with zeros beyond the edge, so a
    constant picture comes out dark along its border.

    Args:
        shape: (height, width) in pixels.
    """
    if image.shape[1:] == shape:
        return image
    return functional.interpolate(
        image[None], size=shape, mode="bilinear", align_corners=False, antialias=True
    )[0].clamp(0, 1)


def resize_mask(
    mask: Float[Tensor, "1 h w"], *, shape: tuple[int, int]
) -> Float[Tensor, "1 height width"]:
    """Nearest pixel centre (`nearest-exact`), so that the mask stays on its image: plain `nearest`
    shifts it by up to half an input pixel per output pixel when it shrinks."""
    if mask.shape[1:] == shape:
        return mask
    return functional.interpolate(mask[None], size=shape, mode="nearest-exact")[0]


def _shape(picture: Tensor, size: int, crop: int | None) -> tuple[int, int]:
    """(height, width) that a picture is resized to."""
    if crop is None:
        return size, size
    height, width = picture.shape[1:]
    scale = max(1.0, crop / min(height, width))
    # The shorter side is `crop` exactly; rounding must not leave it a pixel short.
    return max(crop, round(height * scale)), max(crop, round(width * scale))


def _check(size: int, in_channels: int) -> None:
    if in_channels not in (1, 3) or size < 1:
        raise InvalidInput(
            f"loading got in_channels = {in_channels} and size = {size}; images have 1 or 3 "
            "channels and a side of at least one pixel. Correct the two in the run plan."
        )

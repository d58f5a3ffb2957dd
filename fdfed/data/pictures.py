"""Image and mask files as arrays: which pixels are accepted, and how they are read.

Pillow decodes; only the four formats below are opened, so that a file that pretends to be
something else cannot reach a rarely tested decoder. DICOM files go to `fdfed.data.dicom`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Shaped
from PIL import Image, UnidentifiedImageError

from fdfed.data import dicom
from fdfed.data.unusable import UnusablePicture

FORMATS: Final = ("PNG", "JPEG", "TIFF", "BMP")
SUFFIXES: Final = dicom.OTHER_SUFFIXES | dicom.SUFFIXES

LUMA: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in grey: ITU-R BT.601, section 2.5.1."""

JPEG_NOISE: Final = 40
"""Levels by which compression may move a black or white pixel of a JPEG mask."""
JPEG_STRAY_SHARE: Final = 0.01
"""Share of pixels of a JPEG mask that may lie further off, beside edges."""

MAX_PIXELS: Final = 1 << 26
"""8192 × 8192: takes 800 MB as RGB in fp32. A file of a few bytes can claim any size."""

_EXIF_ORIENTATION: Final = 0x0112
_UPRIGHT: Final = 1
_SAVE_MASK: Final = "save the mask as 1-bit PNG, or with the two values 0 and 255"


def read_image(path: Path) -> Float[np.ndarray, "height width channels"]:
    """Pixels of an image in [0, 1], float32, with one channel (grey) or three (RGB).

    8-bit levels are divided by 255, 16-bit ones by 65535; an RGB image whose channels are equal
    everywhere is returned as grey. Row 0 is the top of the picture, as Pillow shows it. DICOM
    files are read as `fdfed.data.dicom` says.

    Raises:
        UnusablePicture: if the file is not an image of an accepted kind.
    """
    if dicom.is_dicom(path):
        return dicom.read_dicom_image(path)
    with _opened(path) as picture:
        levels, white = _image_levels(picture)
    levels = np.atleast_3d(levels)
    if levels.shape[2] == 3 and _is_grey(levels):
        levels = levels[..., :1]
    return levels.astype(np.float32) / np.float32(white)


def read_mask(path: Path) -> Bool[np.ndarray, "height width"]:
    """Pixels of a mask, true where foreground.

    Accepted are 1-bit masks and masks of the two values 0 and 1, or 0 and the format's largest.
    A JPEG mask is cut at 128, if compression left it close enough to black and white.

    Raises:
        UnusablePicture: if the file is not a mask of an accepted kind.
    """
    if dicom.is_dicom(path):
        return dicom.read_dicom_mask(path)
    with _opened(path) as picture:
        if picture.mode == "1":
            return np.asarray(picture, dtype=bool)
        levels = _mask_levels(picture)
        if picture.format == "JPEG":
            return _cut_jpeg(levels)
    values = np.unique(levels)
    if values[0] == 0 and len(values) == 1:
        return np.zeros(levels.shape, dtype=bool)
    largest = int(values[-1])
    if largest in (1, 255, 65535) and set(values.tolist()) <= {0, largest}:
        foreground: Bool[np.ndarray, "height width"] = levels == largest
        return foreground
    raise UnusablePicture(
        f"has {len(values)} levels from {values[0]} to {largest}, where a mask has background 0 "
        "and foreground 1 or 255",
        f"{_SAVE_MASK}; if images/ and masks/ hold each other's files, swap them",
    )


def read_labels(path: Path) -> Bool[np.ndarray, "height width"]:
    """Pixels of a mask that numbers its objects, or gives each class a level or colour: true
    wherever the pixel is not black.

    Raises:
        UnusablePicture: if the file is not a picture without transparency, or is a JPEG, whose
            black is not black.
    """
    with _opened(path) as picture:
        if picture.format == "JPEG":
            raise UnusablePicture("is a JPEG, in which labels do not survive", _SAVE_MASK)
        levels = np.atleast_3d(np.asarray(_plain(picture)))
    return np.asarray((levels > 0).any(axis=2))


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels, from the file's header.

    Raises:
        UnusablePicture: if the header cannot be read.
    """
    if dicom.is_dicom(path):
        return dicom.dicom_size(path)
    with _opened(path, decode=False) as picture:
        return picture.height, picture.width


@contextmanager
def _opened(path: Path, *, decode: bool = True) -> Iterator[Image.Image]:
    """The decoded picture. What Pillow raises on broken bytes becomes `UnusablePicture`."""
    try:
        picture = Image.open(path, formats=FORMATS)
    except Exception as err:  # Pillow's decoders raise many types on broken bytes
        raise UnusablePicture(
            f"cannot be opened as an image ({_why(err)})",
            "export it again as PNG, JPEG, TIFF or BMP, or remove it",
        ) from err
    with picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise UnusablePicture(
                f"has {picture.width} × {picture.height} pixels, more than {MAX_PIXELS}",
                "cut it into tiles of at most 8192 × 8192",
            )
        try:
            frames = getattr(picture, "n_frames", 1)
            orientation = picture.getexif().get(_EXIF_ORIENTATION, _UPRIGHT)
            if decode:
                picture.load()
        except Exception as err:  # as above
            raise UnusablePicture(
                f"is damaged or cut short ({_why(err)})", "copy or export it again"
            ) from err
        if frames > 1:
            raise UnusablePicture(
                f"holds {frames} pictures", "export each of them as a file of its own"
            )
        if orientation != _UPRIGHT:
            raise UnusablePicture(
                f"carries the EXIF orientation {orientation}: programs show it turned, and it "
                "cannot be known which way image and mask were compared",
                "turn the pixels themselves and remove the tag (as PIL.ImageOps.exif_transpose "
                "does), then compare image and mask",
            )
        yield picture


def _why(err: Exception) -> str:
    """Pillow's reason on one line; an unknown format's message only repeats the path."""
    if isinstance(err, UnidentifiedImageError):
        return "its content is none of PNG, JPEG, TIFF, BMP"
    if isinstance(err, OSError) and err.strerror:
        return err.strerror
    return " ".join(str(err).split()) or type(err).__name__


def _image_levels(picture: Image.Image) -> tuple[Shaped[np.ndarray, "height width *c"], int]:
    """(levels, level of white) of a grey or colour picture without transparency."""
    if picture.mode == "P":  # a palette may hide transparency, which this brings out
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    if picture.mode in ("LA", "RGBA"):
        _refuse_transparency(picture)
        picture = picture.convert(picture.mode[:-1])
    if picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode in ("L", "RGB"):
        return np.asarray(picture), 255
    if picture.mode.startswith("I;16"):
        levels = np.asarray(picture)
        if 0 < levels.max() < 4096:
            raise UnusablePicture(
                f"stores at most 12 bits (brightest level {levels.max()}) in 16, so it would be "
                "read as nearly black",
                "scale the levels to 0…65535, or save it with 8 bits",
            )
        return levels, 65535
    raise UnusablePicture(
        f"has pixels of mode {picture.mode}", "save it as 8-bit or 16-bit grey, or as RGB"
    )


def _refuse_transparency(picture: Image.Image) -> None:
    lowest, highest = picture.getchannel("A").getextrema()
    if lowest != highest:
        raise UnusablePicture(
            f"is transparent in places (alpha {lowest} to {highest})",
            "flatten it onto its true background and save it without alpha",
        )


def _mask_levels(picture: Image.Image) -> Shaped[np.ndarray, "height width"]:
    """One level per pixel."""
    picture = _plain(picture)
    levels = np.asarray(picture)
    if levels.ndim == 2 and picture.mode in ("L", "I", "I;16", "I;16B", "I;16L"):
        return levels
    if picture.mode == "RGB" and (picture.format == "JPEG" or _is_grey(levels)):
        return levels[..., 0]
    raise UnusablePicture(
        f"is a colour picture (mode {picture.mode}), where a mask has two values",
        f"{_SAVE_MASK}; if images/ and masks/ hold each other's files, swap them",
    )


def _plain(picture: Image.Image) -> Image.Image:
    """Without transparency. A palette counts by its colours, which is what one sees."""
    if picture.mode == "P":
        picture = picture.convert("RGB")
    if picture.mode in ("LA", "RGBA"):
        _refuse_transparency(picture)
        picture = picture.convert(picture.mode[:-1])
    return picture


def _cut_jpeg(levels: Shaped[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    stray = ((levels > JPEG_NOISE) & (levels < 255 - JPEG_NOISE)).mean()
    only_dark = 0 < levels.max() <= 128  # 0/1 levels drown in compression noise
    if stray > JPEG_STRAY_SHARE or only_dark:
        raise UnusablePicture(
            f"is a JPEG that is not close to black and white (levels {levels.min()} to "
            f"{levels.max()}, {stray:.0%} of the pixels in between)",
            f"{_SAVE_MASK}; if images/ and masks/ hold each other's files, swap them",
        )
    return levels >= 128


def _is_grey(levels: Shaped[np.ndarray, "height width 3"]) -> bool:
    return bool((levels == levels[..., :1]).all())

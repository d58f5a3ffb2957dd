"""Masks, overlays and a table for new images, by a trained model."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from fdfed.data import image_size, load_image
from fdfed.data.dicom import is_dicom
from fdfed.data.pictures import SUFFIXES, read_image
from fdfed.data.unusable import UnusablePicture
from fdfed.errors import DataError, InvalidInput
from fdfed.evaluation.contours import outlines
from fdfed.evaluation.whole_image import whole_image_logits
from fdfed.files.atomic_file import replacing, write_text
from fdfed.networks import SegmentationNetwork
from fdfed.training.model_file import ModelHeader

CASING: Final = (0, 0, 0)
OUTLINE: Final = (92, 214, 255)
"""Sky blue: occurs neither in grey ultrasound nor in stained tissue."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of `predictions.csv`; sizes in pixels of the image as it came."""

    image: str
    """File name; below a folder that was searched, with its path from there."""
    width: int
    height: int
    foreground_pixels: int
    foreground_share: float
    """Foreground over all pixels."""
    mean_probability_in_foreground: float | None
    """`None` where nothing was found."""
    seconds: float
    """From reading the file to having its probabilities."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that was skipped, and why."""

    image: str
    reason: str


def find_images(images: Path, out: Path, *, recursive: bool = False) -> list[Path]:
    """The image files directly in `images`, by name; DICOM files under any name.

    Args:
        recursive: those in the folders below it too, as archives lay out a DICOM study.

    Raises:
        InvalidInput: if `out` is `images`, lies in it or holds it: results could replace images,
            and the next call would take masks for images.
        DataError: if there is no such folder, it holds no image, or two images share a stem.
    """
    source, target = images.resolve(), out.resolve()
    if target.is_relative_to(source) or source.is_relative_to(target):
        raise InvalidInput(
            f"--out {out} and --images {images} lie one in the other; masks must not be written "
            "among the images. Give --out a folder of its own."
        )
    if not images.is_dir():
        raise DataError(f"{images} is not a folder; give the folder of the images to --images")
    there = images.rglob("*") if recursive else images.iterdir()
    found = sorted(path for path in there if _is_image(path))
    if not found:
        raise DataError(
            f"{images} holds no {', '.join(sorted(SUFFIXES))} file; give the folder in which the "
            "images lie themselves, or --recursive to search the folders below it too"
        )
    by_stem: dict[str, str] = {}
    for path in found:
        # Compared without case: two stems that differ by it are one file on some systems.
        target_name = _result_name(path, images)
        name = str(path.relative_to(images))
        other = by_stem.setdefault(str(target_name).casefold(), name)
        if other != name:
            raise DataError(
                f"{other} and {name} in {images} would both become masks/{target_name}; "
                "rename one of them"
            )
    return found


def _is_image(path: Path) -> bool:
    # A leading dot marks what a file manager leaves beside an image, such as ._scan.png.
    if path.name.startswith(".") or not path.is_file():
        return False
    return path.suffix.lower() in SUFFIXES or is_dicom(path)


def _result_name(path: Path, root: Path) -> Path:
    """Where a result of the image lies below its folder: as the image below `root`, as PNG. Of a
    name without a known suffix, such as the UID 1.2.840.1, nothing is cut off."""
    stem = path.stem if path.suffix.lower() in SUFFIXES else path.name
    return path.relative_to(root).with_name(f"{stem}.png")


@torch.inference_mode()
def probabilities(
    network: SegmentationNetwork,
    image: Float[Tensor, "channels rows columns"],
    *,
    height: int,
    width: int,
) -> Float[np.ndarray, "{height} {width}"]:
    """Foreground probability of each pixel of the image as it came.

    The network's logits go through the sigmoid and, where the image was resized, are then
    stretched back bilinearly, which keeps them in [0, 1].

    Args:
        image: as the model wants it, as `fdfed.data.load_image` gives it, on the network's device.
        height: of the image as it came, in pixels.
        width: likewise.

    Raises:
        InvalidInput: if the network answers with NaN.
    """
    logits = whole_image_logits(network, image[None])
    return own_size_probabilities(logits, height=height, width=width)


def own_size_probabilities(
    logits: Float[Tensor, "1 1 rows columns"], *, height: int, width: int
) -> Float[np.ndarray, "{height} {width}"]:
    """The sigmoid of one image's logits, stretched to the size of the image as it came.

    Raises:
        InvalidInput: if a logit is NaN.
    """
    small = torch.sigmoid(logits.float())
    if torch.isnan(small).any():
        raise InvalidInput(
            "the model answers with NaN, so its weights have diverged; take the model of an "
            "earlier round"
        )
    full = functional.interpolate(small, (height, width), mode="bilinear", align_corners=False)
    pixels: np.ndarray = full[0, 0].clamp(0, 1).cpu().numpy()
    return pixels


def predict_images(
    network: SegmentationNetwork,
    header: ModelHeader,
    paths: Sequence[Path],
    out: Path,
    *,
    device: torch.device,
    threshold: float,
    root: Path | None = None,
) -> Iterator[Prediction | Unreadable]:
    """Writes mask and overlay of each image, one at a time, and yields its row or why it has none.

    `out/masks/<stem>.png` holds 0 and 255, `out/overlays/<stem>.png` the image with the outline.

    Args:
        root: the folder that was searched; results lie in the same folders below `out/masks` and
            `out/overlays` as the images below it. None: all images are in one folder.

    Raises:
        InvalidInput: if `threshold` is not between 0 and 1, or the network answers with NaN.
    """
    if not 0 < threshold < 1:
        raise InvalidInput(
            f"--threshold is {threshold}; it is a probability above 0 and below 1, such as 0.5"
        )
    for path in paths:
        start, folder = time.perf_counter(), root or path.parent
        name, result = path.relative_to(folder).as_posix(), _result_name(path, folder)
        try:
            height, width = image_size(path)
            image = load_image(
                path, size=header.size, in_channels=header.in_channels, crop=header.crop
            )
            pixels = read_image(path)
        except (DataError, UnusablePicture) as err:
            yield Unreadable(name, str(err))
            continue
        probability = probabilities(network, image.to(device), height=height, width=width)
        seconds = time.perf_counter() - start
        mask = probability >= threshold
        save_mask(out / "masks" / result, mask)
        _save(out / "overlays" / result, overlay(pixels, probability, threshold))
        yield _row(name, probability, mask, seconds)


def overlay(
    image: Float[np.ndarray, "height width channels"],
    probability: Float[np.ndarray, "height width"],
    threshold: float,
) -> UInt8[np.ndarray, "height width 3"]:
    """The image in 8-bit RGB with the outline of the predicted foreground drawn on it."""
    levels = np.rint(image * 255).astype(np.uint8)
    picture = Image.fromarray(np.broadcast_to(levels, (*levels.shape[:2], 3)).copy())
    pen = ImageDraw.Draw(picture)
    thickness = max(1, round(min(picture.size) / 200))
    lines = [[(float(x), float(y)) for x, y in p] for p in outlines(probability, level=threshold)]
    pens = [(OUTLINE, thickness)]
    if thickness > 1:
        # All casings first, so that none covers a neighbour's outline. On a small image they
        # would cover the image.
        pens.insert(0, (CASING, thickness + 2))
    for colour, width in pens:
        for line in lines:
            pen.line(line, fill=colour, width=width, joint="curve")
    return np.asarray(picture)


def save_mask(path: Path, mask: Bool[np.ndarray, "height width"]) -> None:
    """The mask as 8-bit PNG of 0 and 255, atomically."""
    _save(path, mask.astype(np.uint8) * np.uint8(255))


def write_predictions(path: Path, rows: Sequence[Prediction]) -> None:
    """`rows` as CSV under `path`, atomically; no probability is an empty cell."""
    buffer = io.StringIO()
    columns = [field.name for field in fields(Prediction)]
    table = csv.DictWriter(buffer, columns, lineterminator="\n")
    table.writeheader()
    for row in rows:
        values = asdict(row)
        for name in ("foreground_share", "mean_probability_in_foreground", "seconds"):
            values[name] = None if values[name] is None else f"{values[name]:.6f}"
        table.writerow(values)
    write_text(path, buffer.getvalue())


def _row(
    name: str,
    probability: Float[np.ndarray, "height width"],
    mask: Bool[np.ndarray, "height width"],
    seconds: float,
) -> Prediction:
    found = int(mask.sum())
    return Prediction(
        image=name,
        width=mask.shape[1],
        height=mask.shape[0],
        foreground_pixels=found,
        foreground_share=found / mask.size,
        mean_probability_in_foreground=float(probability[mask].mean()) if found else None,
        seconds=seconds,
    )


def _save(
    path: Path, pixels: UInt8[np.ndarray, "height width"] | UInt8[np.ndarray, "height width 3"]
) -> None:
    with replacing(path) as part:
        Image.fromarray(pixels).save(part, format="PNG")

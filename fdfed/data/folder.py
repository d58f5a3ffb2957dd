"""What is wrong with a site's folder: every finding at once, before anything is trained on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from fdfed.data.cases import Case, Finding, FolderReport
from fdfed.data.patients import PatientRow, read_patients
from fdfed.data.phantoms.marker import is_phantom_file, is_phantom_folder
from fdfed.data.pictures import SUFFIXES, UnusablePicture, read_image, read_mask

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""

INVERTED_SHARE: Final = 0.5
"""A mask whose foreground exceeds this share of the picture and of its border looks inverted. In
the public sets that docs/DATA.md names, foreground stays below 0.44 and 0.33 of the two."""

_LITTER: Final = frozenset({"thumbs.db", "desktop.ini"})
_LAYOUT: Final = "put images in images/ and masks of the same stem in masks/"


def check_site_folder(folder: Path, *, progress: Progress | None = None) -> FolderReport:
    """Every case in `folder` and every reason not to use it. Never raises for bad data.

    Reads all files once. Identical images of different patients are a finding whatever the seed,
    because some split would put one of them in training and the other in test.
    """
    images, masks, findings = _listings(folder)
    rows, row_findings = read_patients(folder, images, masks) if images else ({}, [])
    phantoms = is_phantom_folder(folder)
    if phantoms:
        findings += _strangers_among_phantoms(images)
    cases = tuple(_cases(folder, images, masks, rows))
    findings += _unpaired(images, masks)
    pictures = _read_all(cases, progress)
    findings += [finding for picture in pictures for finding in picture.findings]
    findings += _duplicates(cases, pictures)
    findings += row_findings
    return FolderReport(
        folder=folder,
        cases=cases,
        findings=tuple(findings),
        empty_masks=sum(picture.empty for picture in pictures),
        patients=len({case.patient for case in cases}),
        patients_known=bool(rows),
        phantoms=phantoms,
    )


def _listings(folder: Path) -> tuple[dict[str, str], dict[str, str], list[Finding]]:
    """File names by stem in images/ and in masks/, and what else lies there."""
    if not folder.is_dir():
        return {}, {}, [_no_folder(folder)]
    findings: list[Finding] = []
    listings: list[dict[str, str]] = []
    for part in ("images", "masks"):
        listing: dict[str, str] = {}
        listings.append(listing)
        below = folder / part
        try:
            paths = sorted(below.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            findings.append(Finding(f"{part}/", "does not exist as a folder", _LAYOUT))
            continue
        except OSError as err:
            remedy = "give the account that runs this program the right to read it"
            findings.append(Finding(f"{part}/", f"cannot be listed ({err.strerror})", remedy))
            continue
        for path in paths:
            if path.name.startswith(".") or path.name.lower() in _LITTER:
                continue
            finding = _unwanted(path, part, listing)
            if finding is None:
                listing[path.stem] = path.name
            else:
                findings.append(finding)
        if not listing:
            findings.append(Finding(f"{part}/", "holds no PNG, JPEG, TIFF or BMP file", _LAYOUT))
    return listings[0], listings[1], findings


def _no_folder(folder: Path) -> Finding:
    parent = folder.parent
    if not parent.is_dir():
        remedy = f"{parent} does not exist either: correct --data"
    elif (parent / "images").is_dir():
        remedy = f"{parent} looks like a site's own folder: give the folder above it to --data"
    else:
        there = sorted(path.name for path in parent.iterdir() if path.is_dir())
        remedy = (
            f"{parent} holds {', '.join(there) if there else 'no folder'}: name one of these as "
            "the site, or create the folder with images/ and masks/ in it"
        )
    return Finding(str(folder), "is not a folder", remedy)


def _unwanted(path: Path, part: str, listing: dict[str, str]) -> Finding | None:
    """Why `path` cannot be listed, or `None`."""
    name = f"{part}/{path.name}"
    if path.is_dir():
        return Finding(name, "is a folder", "move its files up into the folder, and remove it")
    if path.suffix.lower() not in SUFFIXES:
        return Finding(
            name,
            "is not an image by its suffix",
            "convert it to PNG, JPEG, TIFF or BMP, or move it elsewhere",
        )
    if path.stem in listing:
        return Finding(
            name,
            f"has the stem of {part}/{listing[path.stem]}, so pairs are ambiguous",
            "rename or remove one of the two",
        )
    return None


def _strangers_among_phantoms(images: dict[str, str]) -> Iterator[Finding]:
    for name in images.values():
        if not is_phantom_file(name):
            yield Finding(
                f"images/{name}",
                "lies in a folder that PHANTOMS.json marks as made of phantoms",
                "keep patients' images and phantoms in folders of their own",
            )


def _cases(
    folder: Path,
    images: dict[str, str],
    masks: dict[str, str],
    rows: dict[str, PatientRow],
) -> Iterator[Case]:
    for stem in sorted(images.keys() & masks.keys()):
        row = rows.get(stem)
        yield Case(
            name=stem,
            image=folder / "images" / images[stem],
            mask=folder / "masks" / masks[stem],
            patient=row.patient if row else stem,
            subsite=row.subsite if row else None,
        )


def _unpaired(images: dict[str, str], masks: dict[str, str]) -> Iterator[Finding]:
    if not images or not masks:
        return  # the missing or empty folder is a finding already
    for stem in sorted(images.keys() - masks.keys()):
        yield Finding(
            f"images/{images[stem]}",
            "has no mask",
            "add a mask of the same stem to masks/ (all black if there is nothing to segment), "
            "or remove the image",
        )
    for stem in sorted(masks.keys() - images.keys()):
        yield Finding(
            f"masks/{masks[stem]}",
            "belongs to no image",
            "give it the stem of its image (suffixes such as _mask must go), or remove it",
        )


@dataclass(frozen=True, slots=True)
class _Picture:
    """What reading one case showed."""

    findings: tuple[Finding, ...]
    empty: bool
    digest: bytes | None
    """SHA-256 of the image's pixels; `None` if it could not be read."""


def _read_all(cases: tuple[Case, ...], progress: Progress | None) -> list[_Picture]:
    pictures = []
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
        for picture in pool.map(_read_case, cases):
            pictures.append(picture)
            if progress is not None:
                progress(len(pictures), len(cases))
    return pictures


def _read_case(case: Case) -> _Picture:
    findings: list[Finding] = []
    image: Float[np.ndarray, "h w c"] | None = None
    mask: Bool[np.ndarray, "h w"] | None = None
    try:
        image = read_image(case.image)
    except UnusablePicture as err:
        findings.append(Finding(f"images/{case.image.name}", err.reason, err.remedy))
    try:
        mask = read_mask(case.mask)
    except UnusablePicture as err:
        findings.append(Finding(f"masks/{case.mask.name}", err.reason, err.remedy))
    if mask is not None:
        findings += _mask_findings(case, mask, image)
    digest = None
    if image is not None:
        digest = hashlib.sha256(str(image.shape).encode() + image.tobytes()).digest()
    return _Picture(tuple(findings), mask is not None and not mask.any(), digest)


def _mask_findings(
    case: Case,
    mask: Bool[np.ndarray, "mask_h mask_w"],
    image: Float[np.ndarray, "h w c"] | None,
) -> Iterator[Finding]:
    name = f"masks/{case.mask.name}"
    if image is not None and mask.shape != image.shape[:2]:
        yield Finding(
            name,
            f"is {mask.shape[1]}×{mask.shape[0]} pixels, but its image is "
            f"{image.shape[1]}×{image.shape[0]}",
            "export mask and image at one size, and check that they show the same area",
        )
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if mask.mean() > INVERTED_SHARE and border.mean() > INVERTED_SHARE:
        yield Finding(
            name,
            f"looks inverted: {mask.mean():.0%} of the picture and {border.mean():.0%} of its "
            "border are foreground",
            "swap black and white (foreground is 1 or 255); if it is right, crop the image wider",
        )


def _duplicates(cases: tuple[Case, ...], pictures: Iterable[_Picture]) -> Iterator[Finding]:
    first: dict[bytes, Case] = {}
    for case, picture in zip(cases, pictures, strict=True):
        if picture.digest is None:
            continue
        twin = first.setdefault(picture.digest, case)
        if twin.patient != case.patient:
            yield Finding(
                f"images/{case.image.name}",
                f"shows the same pixels as images/{twin.image.name} of another patient "
                f"({case.patient} and {twin.patient}), so a test image could be in training too",
                "remove one of the two, or give both one patient in patients.csv",
            )

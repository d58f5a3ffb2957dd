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
from fdfed.data.layouts import read_layout
from fdfed.data.phantoms.marker import is_phantom_folder
from fdfed.data.unusable import UnusablePicture

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""

INVERTED_SHARE: Final = 0.5
"""A mask whose foreground exceeds this share of the picture and of its border looks inverted. In
the public sets that docs/DATA.md names, foreground stays below 0.44 and 0.33 of the two."""


Look = Callable[
    [Case, Float[np.ndarray, "h w c"], Bool[np.ndarray, "mask_h mask_w"]],
    None,
]
"""Called with every case whose image and mask could be read, in any order and thread."""


def check_site_folder(
    folder: Path, *, progress: Progress | None = None, look: Look | None = None
) -> FolderReport:
    """Every case in `folder` and every reason not to use it. Never raises for bad data.

    Reads all files once. Identical images of different patients are a finding whatever the seed,
    because some split would put one of them in training and the other in test.
    """
    listing = read_layout(folder)
    cases, findings = listing.cases, list(listing.findings)
    pictures = _read_all(folder, cases, progress, look)
    findings += [finding for picture in pictures for finding in picture.findings]
    findings += _duplicates(folder, cases, pictures)
    return FolderReport(
        folder=folder,
        cases=cases,
        findings=tuple(findings),
        empty_masks=sum(picture.empty for picture in pictures),
        patients=len({case.patient for case in cases}),
        patients_known=listing.patients_known,
        phantoms=is_phantom_folder(folder),
    )


@dataclass(frozen=True, slots=True)
class _Picture:
    """What reading one case showed."""

    findings: tuple[Finding, ...]
    empty: bool
    digest: bytes | None
    """SHA-256 of the image's pixels; `None` if it could not be read."""


def _read_all(
    folder: Path, cases: tuple[Case, ...], progress: Progress | None, look: Look | None
) -> list[_Picture]:
    pictures = []
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
        for picture in pool.map(lambda case: _read_case(folder, case, look), cases):
            pictures.append(picture)
            if progress is not None:
                progress(len(pictures), len(cases))
    return pictures


def _read_case(folder: Path, case: Case, look: Look | None) -> _Picture:
    findings: list[Finding] = []
    image: Float[np.ndarray, "h w c"] | None = None
    mask: Bool[np.ndarray, "h w"] | None = None
    try:
        image = case.read_image(case.image)
    except UnusablePicture as err:
        findings.append(Finding(_below(folder, case.image), err.reason, err.remedy))
    try:
        mask = case.read_mask(case.mask)
    except UnusablePicture as err:
        findings.append(Finding(_below(folder, case.mask), err.reason, err.remedy))
    if mask is not None:
        findings += _mask_findings(_below(folder, case.mask), mask, image)
    digest = None
    if image is not None:
        digest = hashlib.sha256(str(image.shape).encode() + image.tobytes()).digest()
    if look is not None and image is not None and mask is not None:
        look(case, image, mask)
    return _Picture(tuple(findings), mask is not None and not mask.any(), digest)


def _mask_findings(
    name: str,
    mask: Bool[np.ndarray, "mask_h mask_w"],
    image: Float[np.ndarray, "h w c"] | None,
) -> Iterator[Finding]:
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


def _duplicates(
    folder: Path, cases: tuple[Case, ...], pictures: Iterable[_Picture]
) -> Iterator[Finding]:
    first: dict[bytes, Case] = {}
    for case, picture in zip(cases, pictures, strict=True):
        if picture.digest is None:
            continue
        twin = first.setdefault(picture.digest, case)
        if twin.patient != case.patient:
            yield Finding(
                _below(folder, case.image),
                f"shows the same pixels as {_below(folder, twin.image)} of another patient "
                f"({case.patient} and {twin.patient}), so a test image could be in training too",
                "remove one of the two, or give both one patient in patients.csv",
            )


def _below(folder: Path, file: Path) -> str:
    """The file's path below the site's folder, as findings name it."""
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)

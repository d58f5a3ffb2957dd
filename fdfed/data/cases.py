"""One image with its mask, and what is wrong with a folder of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float

from fdfed.data import pictures
from fdfed.data.unusable import UnusablePicture
from fdfed.errors import DataError

Part = Literal["train", "validation", "test"]
PARTS: Final[tuple[Part, ...]] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Case:
    """One image and its mask. Two cases of one patient always lie in one part of the split."""

    name: str
    """Unique in its folder; in the layout of this project, the stem shared by image and mask."""
    image: Path
    mask: Path
    """The file that says what is foreground, which need not be a picture."""
    patient: str
    """From `patients.csv`; without that file, the case's own name."""
    subsite: str | None = None
    """Column `subsite` of `patients.csv`, such as the scanner; `None` where it has none."""
    read_image: Callable[[Path], Float[np.ndarray, "height width channels"]] = pictures.read_image
    """Pixels of `image` in [0, 1], float32, one channel or three; raises `UnusablePicture`."""
    read_mask: Callable[[Path], Bool[np.ndarray, "height width"]] = pictures.read_mask
    """Pixels of `mask` at the size of the image, true where foreground; raises likewise."""

    def load_image(self) -> Float[np.ndarray, "height width channels"]:
        """The image's pixels.

        Raises:
            DataError: naming the file, if it cannot be read.
        """
        try:
            return self.read_image(self.image)
        except UnusablePicture as err:
            raise DataError(f"{self.image}: {err.reason}; {err.remedy}") from err

    def load_mask(self) -> Bool[np.ndarray, "height width"]:
        """The mask's pixels.

        Raises:
            DataError: naming the file, if it cannot be read.
        """
        try:
            return self.read_mask(self.mask)
        except UnusablePicture as err:
            raise DataError(f"{self.mask}: {err.reason}; {err.remedy}") from err


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why a folder cannot be used, and what to do about it."""

    file: str
    """Path below the site's folder, or the folder itself."""
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What a layout's reader found in a folder, before any picture is read."""

    cases: tuple[Case, ...]
    """By name, in sorted order."""
    findings: tuple[Finding, ...] = ()
    """What is wrong with the files as a set: missing, unpaired, ambiguous."""
    patients_known: bool = False
    """Whether the folder says whose the images are; else each counts as a patient of its own."""


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What `check_site_folder` saw. The folder can be used if there are no findings."""

    folder: Path
    cases: tuple[Case, ...]
    """Pairs of an image and a mask, by name; includes pairs that findings speak about."""
    findings: tuple[Finding, ...]
    empty_masks: int
    """Masks without any foreground (normals): legal, and counted."""
    patients: int
    """Where nothing says whose they are, the images: each counts as a patient of its own."""
    patients_known: bool
    """Whether `patients.csv`, or the layout, says whose the images are."""
    phantoms: bool
    """Whether the folder was written by `write_phantoms`."""

    @property
    def usable(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def raise_findings(self) -> None:
        """Do nothing if the folder can be used.

        Raises:
            DataError: with every finding, those with one remedy together.
        """
        if self.findings:
            raise DataError(_render(self.folder, self.findings))


def _render(folder: Path, findings: tuple[Finding, ...]) -> str:
    """All findings as text: files and reasons, grouped by what to do about them."""
    by_remedy: dict[str, list[Finding]] = {}
    for finding in findings:
        by_remedy.setdefault(finding.remedy, []).append(finding)
    count = f"{len(findings)} finding{'s' if len(findings) > 1 else ''}"
    lines = [f"{folder} cannot be used as it is ({count}):"]
    for remedy, group in by_remedy.items():
        lines += [f"  {finding.file}: {finding.reason}" for finding in group]
        lines.append(f"    → {remedy}")
    return "\n".join(lines)

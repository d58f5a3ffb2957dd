"""What is in a site's folder, in numbers: for the person who must vouch for it before a run.

Everything here stays where the images are: names of files and patients are in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32

from fdfed.data.cases import Case, FolderReport
from fdfed.data.dicom import is_dicom, pixel_spacing
from fdfed.data.folder import Progress, check_site_folder
from fdfed.data.layouts import LAYOUT_FILE, layout_of
from fdfed.data.near_duplicates import near_duplicates, thumbnail
from fdfed.errors import DataError

SQUARE: Final = 1.01
"""Longest side of a pixel over its shortest, up to which it counts as square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """One image with its mask."""

    name: str
    patient: str
    height: int
    """In pixels, as `width`."""
    width: int
    channels: int
    foreground: float
    """Share of the pixels that the mask calls foreground."""
    mean: float
    """Of the grey levels, in [0, 1]."""
    sd: float
    spacing: tuple[float, float] | None
    """mm between rows and between columns; None where the file does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSurvey:
    """One site's folder."""

    site: str
    layout: str
    report: FolderReport
    images: tuple[ImageFacts, ...]
    """Those that could be read with their masks, by name."""
    thumbnails: Float32[np.ndarray, "images 32 32"]
    """Of the same images, in the same order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """Two images that show nearly the same."""

    first: tuple[str, str]
    """Site and image."""
    second: tuple[str, str]
    correlation: float
    across_patients: bool
    """Whether they belong to two patients, or to two sites: one may train and the other test."""


def survey_site(folder: Path, *, progress: Progress | None = None) -> SiteSurvey:
    """The folder's report and the facts of its images; each file is read once."""
    facts: dict[str, ImageFacts] = {}
    thumbs: dict[str, Float32[np.ndarray, "32 32"]] = {}

    def look(
        case: Case, image: Float[np.ndarray, "h w c"], mask: Bool[np.ndarray, "mask_h mask_w"]
    ) -> None:
        facts[case.name] = _facts(case, image, mask)
        thumbs[case.name] = thumbnail(image)

    report = check_site_folder(folder, progress=progress, look=look)
    names = sorted(facts)
    return SiteSurvey(
        site=folder.resolve().name,
        layout=layout_of(folder),
        report=report,
        images=tuple(facts[name] for name in names),
        thumbnails=np.stack([thumbs[n] for n in names]) if names else np.zeros((0, 32, 32), "f4"),
    )


def likenesses(surveys: Sequence[SiteSurvey]) -> tuple[Likeness, ...]:
    """The near-duplicates among all images of all sites; the most alike first."""
    images = [(survey.site, facts) for survey in surveys for facts in survey.images]
    pairs = near_duplicates(np.concatenate([s.thumbnails for s in surveys])) if images else []
    found = []
    for pair in pairs:
        (site, one), (other_site, other) = images[pair.first], images[pair.second]
        found.append(
            Likeness(
                first=(site, one.name),
                second=(other_site, other.name),
                correlation=pair.correlation,
                across_patients=(site, one.patient) != (other_site, other.patient),
            )
        )
    return tuple(found)


def site_folders(folder: Path) -> tuple[Path, ...]:
    """The folders to survey: `folder`, if it is a site's; else the folders in it, by name.

    A site's own has images/ or masks/ or names its layout, or is called as a known layout.

    Raises:
        DataError: if there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give a site's folder, or the one above it")
    own = ("images", "masks", LAYOUT_FILE)
    below = tuple(sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if any((folder / name).exists() for name in own) or layout_of(folder) != "folder":
        return (folder,)
    if not below:
        raise DataError(
            f"{folder} holds neither images/ and masks/ nor a folder for each site; "
            "docs/DATA.md shows both"
        )
    return below


def as_document(surveys: Sequence[SiteSurvey], alike: Sequence[Likeness]) -> dict[str, object]:
    """Everything, for `--json`."""
    return {
        "usable": all(survey.report.usable for survey in surveys),
        "sites": {survey.site: _site_document(survey) for survey in surveys},
        "near_duplicates": [
            {
                "first": "/".join(entry.first),
                "second": "/".join(entry.second),
                "correlation": round(entry.correlation, 4),
                "across_patients": entry.across_patients,
            }
            for entry in alike
        ],
    }


def _site_document(survey: SiteSurvey) -> Mapping[str, object]:
    report = survey.report
    return {
        "folder": str(report.folder),
        "layout": survey.layout,
        "usable": report.usable,
        "phantoms": report.phantoms,
        "patients": report.patients,
        "patients_known": report.patients_known,
        "empty_masks": report.empty_masks,
        "findings": [
            {"file": f.file, "reason": f.reason, "remedy": f.remedy} for f in report.findings
        ],
        "images": [
            {
                "name": facts.name,
                "patient": facts.patient,
                "height": facts.height,
                "width": facts.width,
                "channels": facts.channels,
                "foreground": round(facts.foreground, 6),
                "mean": round(facts.mean, 6),
                "sd": round(facts.sd, 6),
                "spacing_mm": facts.spacing,
            }
            for facts in survey.images
        ],
    }


def _facts(
    case: Case, image: Float[np.ndarray, "h w c"], mask: Bool[np.ndarray, "mask_h mask_w"]
) -> ImageFacts:
    grey = image.mean(axis=2, dtype=np.float64)
    return ImageFacts(
        name=case.name,
        patient=case.patient,
        height=image.shape[0],
        width=image.shape[1],
        channels=image.shape[2],
        foreground=float(mask.mean()),
        mean=float(grey.mean()),
        sd=float(grey.std()),
        spacing=pixel_spacing(case.image) if is_dicom(case.image) else None,
    )

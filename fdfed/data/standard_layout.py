"""The layout of this project: images/, masks/ with files of the same stem, and patients.csv."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from fdfed.data.cases import Case, Finding, Listing
from fdfed.data.dicom import dicom_patient, is_dicom
from fdfed.data.patients import PATIENTS_FILE, PatientRow, read_patients
from fdfed.data.phantoms.marker import is_phantom_file, is_phantom_folder
from fdfed.data.pictures import SUFFIXES

_LITTER: Final = frozenset({"thumbs.db", "desktop.ini"})
_LAYOUT: Final = "put images in images/ and masks of the same stem in masks/"


def read_standard(folder: Path) -> Listing:
    """The cases of a folder in this layout, and what is wrong with its files as a set.

    No pixel is read. A case takes part also where a finding speaks about it. Without
    `patients.csv`, DICOM images say themselves whose they are.
    """
    images, masks, findings = _listings(folder)
    rows, row_findings = read_patients(folder, images, masks) if images else ({}, [])
    if is_phantom_folder(folder):
        findings += _strangers_among_phantoms(images)
    findings += _unpaired(images, masks)
    cases = tuple(_cases(folder, images, masks, rows))
    known = bool(rows)
    if not (folder / PATIENTS_FILE).exists() and cases:
        patients = [dicom_patient(c.image) if is_dicom(c.image) else None for c in cases]
        known = None not in patients
        cases = tuple(
            replace(case, patient=patient or case.patient)
            for case, patient in zip(cases, patients, strict=True)
        )
    return Listing(cases, tuple(findings + row_findings), patients_known=known)


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
            findings.append(
                Finding(f"{part}/", "holds no PNG, JPEG, TIFF, BMP or DICOM file", _LAYOUT)
            )
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
            "convert it to PNG, JPEG, TIFF or BMP (DICOM files end in .dcm), or move it elsewhere",
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

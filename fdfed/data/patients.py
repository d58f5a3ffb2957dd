"""`patients.csv`: which patient an image belongs to."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fdfed.data.cases import Finding

PATIENTS_FILE: Final = "patients.csv"
_REQUIRED: Final = ("image", "patient")
_HEADER_REMEDY: Final = (
    "save it as UTF-8 text with commas and a first line that names the columns image, mask and "
    "patient (subsite and others may follow)"
)


@dataclass(frozen=True, slots=True)
class PatientRow:
    """One row: an image's file name, its mask's, and whose it is."""

    image: str
    mask: str | None
    patient: str
    subsite: str | None


def read_patients(
    folder: Path, images: Mapping[str, str], masks: Mapping[str, str]
) -> tuple[dict[str, PatientRow], list[Finding]]:
    """Rows by stem of the image, and what is wrong with them; both empty without the file.

    Args:
        folder: the site's folder.
        images: file name of each image, by stem; rows must name these, and all of these.
        masks: the same for the masks.
    """
    path = folder / PATIENTS_FILE
    if not path.exists():
        return {}, []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = [(name or "").strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            records = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        return {}, [Finding(PATIENTS_FILE, f"cannot be read ({err})", _HEADER_REMEDY)]
    missing = [name for name in _REQUIRED if name not in header]
    if missing:
        reason = f"has no column {' and no column '.join(missing)}; its first line is {header}"
        return {}, [Finding(PATIENTS_FILE, reason, _HEADER_REMEDY)]
    return _collect(records, images, masks)


def _collect(
    records: Collection[Mapping[str | None, str | list[str] | None]],
    images: Mapping[str, str],
    masks: Mapping[str, str],
) -> tuple[dict[str, PatientRow], list[Finding]]:
    rows: dict[str, PatientRow] = {}
    findings: list[Finding] = []
    for line, record in enumerate(records, start=2):
        where = f"{PATIENTS_FILE} line {line}"
        row = PatientRow(
            image=_cell(record, "image"),
            mask=_cell(record, "mask") or None,
            patient=_cell(record, "patient"),
            subsite=_cell(record, "subsite") or None,
        )
        stem = Path(row.image).stem
        finding = _fault(where, row, stem, images, masks)
        if finding is None and stem in rows:
            finding = Finding(
                where, f"names {row.image} a second time", "keep one row for each image"
            )
        if finding is not None:
            findings.append(finding)
        if row.patient:
            rows.setdefault(stem, row)
    findings += [
        Finding(
            f"images/{images[stem]}",
            f"has no row with a patient in {PATIENTS_FILE}",
            f"add the missing rows to {PATIENTS_FILE}; without a patient, images of one person "
            "could end up both in training and in test",
        )
        for stem in sorted(set(images) - set(rows))
    ]
    return rows, findings


def _cell(record: Mapping[str | None, str | list[str] | None], column: str) -> str:
    value = record.get(column)
    return value.strip() if isinstance(value, str) else ""


def _fault(
    where: str,
    row: PatientRow,
    stem: str,
    images: Mapping[str, str],
    masks: Mapping[str, str],
) -> Finding | None:
    if images.get(stem) != row.image:
        return Finding(
            where,
            f"names the image {row.image!r}, which is not in images/",
            "correct the file name (with its suffix), add the file or remove the row",
        )
    there = masks.get(stem)  # an image without any mask is a finding of its own
    if row.mask is not None and there is not None and there != row.mask:
        return Finding(
            where,
            f"gives {row.image} the mask {row.mask!r}, but masks/ has {there} for it",
            "name the mask in masks/ that has the image's stem, or leave the cell empty",
        )
    if not row.patient:
        return Finding(
            where,
            f"has no patient for {row.image}",
            "give every image the pseudonym of its patient",
        )
    return None

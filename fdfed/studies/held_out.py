"""The confirmatory patients of the studies: set aside by hash before anything was trained.

`docs/studies/held_out.json` records them, so that anyone can see that they were fixed first and
have not moved. The draw itself is a function of the patients' names (`held_out_patients`); a study
refuses data whose draw differs from the record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fdfed.data import check_site_folder, held_out_patients
from fdfed.errors import DataError, InvalidInput
from fdfed.files.atomic_file import write_text

DRAW: Final = "confirmatory-1"
"""Name of the draw that all studies of this repository share (`split.held_out`)."""


def draw_held_out(data: Path, sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The confirmatory patients of each site below `data`, by name.

    Raises:
        DataError: if a site's folder cannot be used.
    """
    drawn = {}
    for site in sites:
        report = check_site_folder(data / site)
        report.raise_findings()
        patients = (case.patient for case in report.cases)
        drawn[site] = held_out_patients(patients, site=site, draw=DRAW)
    return drawn


def write_held_out(path: Path, drawn: Mapping[str, Sequence[str]]) -> None:
    """The record: the draw's name and the patients of each site."""
    document = {"draw": DRAW, "sites": {site: list(drawn[site]) for site in sorted(drawn)}}
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def check_held_out(path: Path, drawn: Mapping[str, Sequence[str]]) -> None:
    """Nothing, if the record in `path` names the patients that were drawn.

    Raises:
        InvalidInput: if the record cannot be read or is of another draw.
        DataError: if a site's patients differ, or the record lacks the site.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        recorded: dict[str, list[str]] = document["sites"]
        name = document["draw"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise InvalidInput(f"{path} is not a record of held-out patients: {err}") from err
    if name != DRAW:
        raise InvalidInput(f"{path} records the draw {name!r}; studies use {DRAW!r}")
    for site, patients in drawn.items():
        if list(patients) != recorded.get(site):
            raise DataError(
                f"the held-out patients of {site} are not those that {path} records, so these are "
                "not the images the record was made for. Use those, or a record of your own"
            )

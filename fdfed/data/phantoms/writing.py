"""Phantoms as files, in the folder layout of patients' images."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from fdfed.data.patients import PATIENTS_FILE
from fdfed.data.phantoms.histology import histology_phantom
from fdfed.data.phantoms.marker import (
    MARKER,
    is_phantom_file,
    phantom_name,
    read_marker,
    write_marker,
)
from fdfed.data.phantoms.specs import UltrasoundSpec, spec_of
from fdfed.data.phantoms.ultrasound import ultrasound_phantom
from fdfed.data.seeds import generator
from fdfed.errors import DataError, InvalidInput

_VERSION: Final = 1
"""Raised when the same seed begins to give other pictures."""
SMALLEST: Final = 32
"""Side in pixels below which speckle and nuclei fall under one pixel."""


def write_phantoms(
    directory: Path, site: str, *, images: int = 40, size: int = 128, seed: int = 0
) -> Path:
    """Folder `directory/site` with phantoms of that site, written if it is not there already.

    A function of (site, images, size, seed): the same arguments give the same files. The folder
    has `images/`, `masks/` and `patients.csv` like any site's, and `PHANTOMS.json`, by which it is
    never taken for patients' images.

    Args:
        directory: the folder above the site's.
        site: one of `KNOWN_SITES`, or any other name (an ultrasound site drawn from its hash).
        images: how many.
        size: side of the pictures in pixels.
        seed: of all draws.

    Raises:
        DataError: if the folder holds files that are not phantoms; nothing is touched then.
    """
    if images < 1 or size < SMALLEST:
        raise InvalidInput(
            f"write_phantoms got images = {images} and size = {size}; at least one image of "
            f"at least {SMALLEST} pixels a side can be made"
        )
    folder = directory / site
    spec = spec_of(site)
    made_from: dict[str, Any] = {
        "version": _VERSION,
        "site": site,
        "images": images,
        "size": size,
        "seed": seed,
        "kind": "ultrasound" if isinstance(spec, UltrasoundSpec) else "histology",
        "spec": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(spec).items()},
    }
    if read_marker(folder) == made_from:
        return folder
    _clear(folder)
    rows = [_write_one(folder, site, index, size, seed) for index in range(images)]
    with (folder / PATIENTS_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "mask", "patient"))
        writer.writerows(rows)
    write_marker(folder, made_from)
    return folder


def _clear(folder: Path) -> None:
    """Make the folders, and remove older phantoms from them.

    Raises:
        DataError: if any other file is there.
    """
    ours = {MARKER, PATIENTS_FILE}
    old: list[Path] = []
    for part in (folder, folder / "images", folder / "masks"):
        part.mkdir(parents=True, exist_ok=True)
        for path in sorted(part.iterdir()):
            known = path.name in ours if part == folder else is_phantom_file(path.name)
            if part == folder and path.name in ("images", "masks"):
                continue
            if not known or (path.name == PATIENTS_FILE and not (folder / MARKER).exists()):
                raise DataError(
                    f"{path} is not a phantom, so no phantoms are written into {folder}; give "
                    "another folder, or another name to the site"
                )
            old.append(path)
    for path in sorted(old, key=lambda path: path.name != MARKER):  # the mark first
        path.unlink()


def _write_one(folder: Path, site: str, index: int, size: int, seed: int) -> tuple[str, str, str]:
    """Write one image and its mask; returns its row of `patients.csv`."""
    spec = spec_of(site)
    number = index // spec.images_per_patient
    patient = generator("phantom patient", seed, site, number)
    picture = generator("phantom picture", seed, site, index)
    if isinstance(spec, UltrasoundSpec):
        image, mask = ultrasound_phantom(spec, size=size, patient=patient, picture=picture)
    else:
        image, mask = histology_phantom(spec, size=size, patient=patient, picture=picture)
    name = f"{phantom_name(index)}.png"
    Image.fromarray(image).save(folder / "images" / name)
    Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).convert("1").save(
        folder / "masks" / name
    )
    return name, name, f"phantom_patient_{number:03d}"

"""Pairs of PNG files, as US-TNBC and other small collections are handed on.

US-TNBC is given on request, and its layout is not published; so two usual ones are read:
`name.png` with `name_mask.png` beside it, or two sister folders with files of the same name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from fdfed.data.cases import Case, Listing
from fdfed.data.datasets.pairs import files_below, matched

_MASK_STEM: Final = re.compile(r"^(?P<image>.+)[ _-](?:mask|gt|seg|segmentation|label)$", re.I)
_MASK_FOLDERS: Final = frozenset({"masks", "mask", "gt", "labels", "label", "annotations"})
_IS: Final = "name_mask.png beside name.png, or a file of the image's name in a folder masks/"


def read_us_tnbc(folder: Path) -> Listing:
    """The cases. Nothing says whose they are: `patients.csv` should."""
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in files_below(folder, {".png"}):
        inner = path.relative_to(folder).parent
        named = _MASK_STEM.match(path.stem)
        stem = named["image"] if named else path.stem
        if inner.name.lower() in _MASK_FOLDERS:
            masks[_key(inner.parent, stem)] = path
        elif named:
            masks[_key(inner, stem)] = path
        else:
            images[_key(inner, stem)] = path
    beside = {key: path for key, path in images.items() if key in masks}
    # Not beside its mask: then in a sister folder of the masks', whatever that is called.
    for key, path in images.items() - beside.items():
        inner = path.relative_to(folder).parent
        beside[_key(inner.parent, path.stem) if inner.parts else key] = path
    keys, findings = matched(folder, beside, masks, mask_is=_IS)
    cases = tuple(Case(name=key, image=beside[key], mask=masks[key], patient=key) for key in keys)
    return Listing(cases, tuple(findings))


def _key(inner: Path, stem: str) -> str:
    return "-".join((*inner.parts, stem))

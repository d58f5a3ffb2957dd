"""UDIAT Dataset B, breast ultrasound: `original/000001.png` with the mask `GT/000001.png`.

Yap et al., IEEE JBHI 22(4):1218-1226, 2018. The archive unpacks to `BUS/original` and `BUS/GT`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fdfed.data.cases import Case, Listing
from fdfed.data.datasets.pairs import files_below, matched

_IMAGES: Final = "original"
_MASKS: Final = "gt"


def read_udiat(folder: Path) -> Listing:
    """The cases. Each of the 163 images is of another woman, as the paper says."""
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in files_below(folder, {".png"}):
        for name, found in ((_IMAGES, images), (_MASKS, masks)):
            if path.parent.name.lower() == name:
                found[path.stem] = path
    keys, findings = matched(folder, images, masks, mask_is="GT/name.png of original/name.png")
    cases = tuple(Case(name=key, image=images[key], mask=masks[key], patient=key) for key in keys)
    return Listing(cases, tuple(findings), patients_known=True)

"""Neuritic plaques in Alzheimer's disease: `new_wsi_00/patches/name.png` with `masks/name.png`.

Jimenez et al., MICCAI 2022; doi:10.6084/m9.figshare.20188142 (128 pixels) and 20186840 (256). A
folder a whole-slide image, eight in all. Beside `patches`, as scanned, the archives have the same
patches after two stain normalisations, `macenko` and `vahadane`, which are not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fdfed.data.cases import Case, Listing
from fdfed.data.datasets.pairs import files_below, matched
from fdfed.data.pictures import read_labels

_IMAGES: Final = "patches"
_MASKS: Final = "masks"


def read_ad(folder: Path) -> Listing:
    """The cases, a slide a patient: the patches with `_C0` to `_C3` at the end of their name show
    the same plaque moved to a corner, so those of a slide must stay together."""
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in files_below(folder, {".png"}):
        for name, found in ((_IMAGES, images), (_MASKS, masks)):
            if path.parent.name == name:
                slide = path.relative_to(folder).parent.parent
                found["-".join((*slide.parts, path.stem))] = path
    keys, findings = matched(folder, images, masks, mask_is="masks/name.png of patches/name.png")
    cases = tuple(
        Case(
            name=key,
            image=images[key],
            mask=masks[key],
            patient=images[key].parent.parent.name,
            read_mask=read_labels,
        )
        for key in keys
    )
    return Listing(cases, tuple(findings), patients_known=True)

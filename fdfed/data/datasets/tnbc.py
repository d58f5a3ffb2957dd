"""TNBC nuclei, Institut Curie: `Slide_01/01_1.png` with the mask `GT_01/01_1.png`.

Naylor, Laé, Reyal, Walter, IEEE TMI 38(2):448-459, 2019; doi:10.5281/zenodo.2579118.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fdfed.data.cases import Case, Listing
from fdfed.data.datasets.pairs import files_below, matched
from fdfed.data.pictures import read_labels

_IMAGES: Final = "Slide_"
_MASKS: Final = "GT_"


def read_tnbc(folder: Path) -> Listing:
    """The cases, a slide a patient. Masks number the nuclei or have 0 and 255; both are taken."""
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in files_below(folder, {".png"}):
        for start, found in ((_IMAGES, images), (_MASKS, masks)):
            if path.parent.name.startswith(start):
                slide = path.parent.name.removeprefix(start)
                found[f"{slide}/{path.stem}"] = path
    keys, findings = matched(folder, images, masks, mask_is="GT_NN/name.png of Slide_NN/name.png")
    cases = tuple(
        Case(
            name=f"slide{key.replace('/', '-')}",
            image=images[key],
            mask=masks[key],
            patient=f"slide{key.partition('/')[0]}",
            read_mask=read_labels,
        )
        for key in keys
    )
    return Listing(cases, tuple(findings), patients_known=True)

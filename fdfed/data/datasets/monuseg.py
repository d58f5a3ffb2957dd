"""MoNuSeg 2018: tissue images of TCGA as TIFF, nuclei as outlines in XML of the same stem.

Kumar et al., IEEE TMI 36(7):1550-1560, 2017, and 39(5):1380-1391, 2020. The training archive has
`Tissue Images/` and `Annotations/`, the test archive both kinds of file in one folder; here all of
them may lie anywhere below the site's folder.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fdfed.data.cases import Case, Finding, Listing
from fdfed.data.datasets.pairs import files_below, matched
from fdfed.data.outlines import filled_outlines


def read_monuseg(folder: Path) -> Listing:
    """The cases. The patient is the beginning of the file's name, TCGA-XX-XXXX, and the subsite
    TCGA-XX, the tissue source site."""
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    twice: list[Finding] = []
    for path in files_below(folder, {".tif", ".tiff", ".xml"}):
        found = masks if path.suffix.lower() == ".xml" else images
        first = found.setdefault(path.stem, path)
        if first != path:
            twice.append(
                Finding(
                    path.relative_to(folder).as_posix(),
                    f"has the name of {first.relative_to(folder).as_posix()}",
                    "remove one of the two, so that it is clear which belongs together",
                )
            )
    keys, findings = matched(folder, images, masks, mask_is="an XML file of the image's stem")
    cases = tuple(
        Case(
            name=key,
            image=images[key],
            mask=masks[key],
            patient="-".join(key.split("-")[:3]),
            subsite="-".join(key.split("-")[:2]),
            read_mask=partial(filled_outlines, image=images[key]),
        )
        for key in keys
    )
    known = all(key.startswith("TCGA-") for key in keys)
    return Listing(cases, (*twice, *findings), patients_known=known)

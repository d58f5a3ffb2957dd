"""Which reader a site's folder needs, and the cases that it finds there.

A folder is in the layout of this project (`standard_layout`), or in the one in which its data set
is distributed. A file `layout.txt` in it names the layout; without that file, images/ or masks/
mean the project's, and any other folder is read in the layout that is called as the folder, where
there is one. Layouts of installed packages are found by their entry points (`fdfed.datasets`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from fdfed import plugins
from fdfed.data.cases import Case, Finding, Listing
from fdfed.data.datasets import read_ad, read_monuseg, read_tnbc, read_udiat, read_us_tnbc
from fdfed.data.patients import PATIENTS_FILE, read_patients
from fdfed.data.standard_layout import read_standard
from fdfed.errors import InvalidInput

Reader = Callable[[Path], Listing]

LAYOUT_FILE: Final = "layout.txt"
STANDARD: Final = "folder"
"""The name of the project's own layout in `layout.txt`."""

_READERS: Final[dict[str, Reader]] = {
    STANDARD: read_standard,
    "tnbc": read_tnbc,
    "monuseg": read_monuseg,
    "udiat": read_udiat,
    "us-tnbc": read_us_tnbc,
    "ad": read_ad,
}


def read_layout(folder: Path) -> Listing:
    """The cases in `folder`, by the reader of its layout.

    Raises:
        InvalidInput: if an installed package's reader cannot be used.
    """
    name = layout_of(folder)
    if name not in _READERS and name not in plugins.installed("fdfed.datasets"):
        reason = f"names the layout {name!r}"
        remedy = plugins.unknown("fdfed.datasets", name, built_in=tuple(_READERS))
        return Listing((), (Finding(LAYOUT_FILE, reason, remedy),))
    listing = _reader(name)(folder)
    if not isinstance(listing, Listing):
        raise InvalidInput(
            f"the reader of the layout {name} returned {type(listing).__name__}; it must return a "
            "fdfed.data.Listing (docs/EXTENDING.md)"
        )
    if name != STANDARD and (folder / PATIENTS_FILE).exists():
        listing = _with_patients(folder, listing)
    cases = tuple(sorted(listing.cases, key=lambda case: case.name))
    findings = (*listing.findings, *_faults(folder, name, listing))
    return Listing(cases, findings, patients_known=listing.patients_known)


def _with_patients(folder: Path, listing: Listing) -> Listing:
    """The cases with the patients of `patients.csv`, which come before those of the layout."""
    by_stem: dict[str, Case] = {case.image.stem: case for case in listing.cases}
    if len(by_stem) < len(listing.cases):
        reason = "names image files, of which some have one name here, in several folders"
        remedy = "remove it, and let the layout say whose the images are; or rename the files"
        return replace(
            listing, findings=(*listing.findings, Finding(PATIENTS_FILE, reason, remedy))
        )
    rows, found = read_patients(folder, {s: c.image.name for s, c in by_stem.items()}, {})
    cases = tuple(
        replace(case, patient=rows[stem].patient, subsite=rows[stem].subsite or case.subsite)
        if stem in rows
        else case
        for stem, case in by_stem.items()
    )
    return Listing(cases, (*listing.findings, *found), patients_known=bool(rows))


def _faults(folder: Path, layout: str, listing: Listing) -> Iterator[Finding]:
    """What no reader may hand on in silence."""
    if not listing.cases and not listing.findings:
        yield Finding(
            str(folder),
            f"holds no image in the layout {layout}",
            f"correct --data, or name another layout in {LAYOUT_FILE}",
        )
    counts = Counter(case.name for case in listing.cases)
    for name in sorted(name for name, count in counts.items() if count > 1):
        yield Finding(
            str(folder),
            f"gives {counts[name]} images the name {name}",
            f"rename the files, or correct the reader of the layout {layout}",
        )


def layout_of(folder: Path) -> str:
    """The name of the layout that `folder` is read in, whether it is known or not."""
    try:
        return (folder / LAYOUT_FILE).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        pass
    if not folder.is_dir() or any((folder / part).exists() for part in ("images", "masks")):
        return STANDARD
    known = folder.name in _READERS or folder.name in plugins.installed("fdfed.datasets")
    return folder.name if known else STANDARD


def _reader(name: str) -> Reader:
    if name in _READERS:
        return _READERS[name]
    return plugins.load_function("fdfed.datasets", name, built_in=tuple(_READERS))

"""More hospitals out of two: the parts of a site that came from different devices or sources.

`patients.csv` names them in its column `subsite`. A part becomes a folder of its own, of links to
the images; the site's confirmatory patients are left out, so that a part can be in any split.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from fdfed.errors import DataError
from fdfed.files.atomic_file import write_text
from fdfed.studies.held_out import draw_held_out

_TABLE: Final = "patients.csv"
Rows = Sequence[Mapping[str, str]]


def _device(start: str) -> Callable[[Rows], Rows]:
    return lambda rows: [row for row in rows if row["subsite"].startswith(start)]


def _sources(*, repeated: bool) -> Callable[[Rows], Rows]:
    def chosen(rows: Rows) -> Rows:
        counts = Counter(row["subsite"] for row in rows)
        return [row for row in rows if (counts[row["subsite"]] > 1) is repeated]

    return chosen


PARTS: Final[Mapping[str, tuple[str, Callable[[Rows], Rows]]]] = {
    "monuseg-repeated": ("monuseg", _sources(repeated=True)),
    "monuseg-single": ("monuseg", _sources(repeated=False)),
    "busbra-logiq5": ("busbra", _device("GE Logiq 5")),
    "busbra-logiq7": ("busbra", _device("GE Logiq 7")),
}
"""By hospital: the site it is a part of, and which of its rows."""


def make_hospitals(data: Path, out: Path) -> Path:
    """The folder `out`/sites with every site of `data` and every part; made anew each time.

    Raises:
        DataError: if a site that is to be parted is not there, or has no column `subsite`.
    """
    folder = out / "sites"
    folder.mkdir(parents=True, exist_ok=True)
    for site in sorted(path for path in data.iterdir() if (path / "images").is_dir()):
        _link(folder / site.name, site)
    for name, (site_name, choose) in PARTS.items():
        _make_part(folder / name, data, site_name, choose)
    return folder


def _make_part(part: Path, data: Path, site: str, choose: Callable[[Rows], Rows]) -> None:
    table = data / site / _TABLE
    try:
        rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
        chosen = choose(rows)
    except (OSError, KeyError) as err:
        raise DataError(
            f"{table} has no column subsite ({err}); the leave-one-site-out study takes hospitals "
            "from it"
        ) from err
    aside = set(draw_held_out(data, (site,))[site])
    kept = [row for row in chosen if row["patient"] not in aside]
    for kind in ("image", "mask"):
        folder = part / f"{kind}s"
        folder.mkdir(parents=True, exist_ok=True)
        for row in kept:
            _link(folder / row[kind], data / site / f"{kind}s" / row[kind])
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept)
    write_text(part / _TABLE, buffer.getvalue())


def _link(link: Path, target: Path) -> None:
    if link.is_symlink():
        link.unlink()
    link.symlink_to(target.resolve())

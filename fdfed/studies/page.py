"""What the pages of all studies share: a results section between two marks, tables, percentages."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from fdfed.errors import InvalidInput
from fdfed.evaluation.results import library_versions
from fdfed.evaluation.results_files import without_nan
from fdfed.evaluation.significance import Comparison
from fdfed.files.atomic_file import write_text
from fdfed.studies.baselines.configuration import Configuration

Found = TypeVar("Found")

END: Final = "<!-- end of results -->"


def begin_mark(study: str) -> str:
    """The line before the results section of a study's page."""
    return f"<!-- results: written by `fdfed study {study} --page`, do not edit -->"


def rewrite_results(
    page: Path, study: str, tables: Callable[[Path], Found], section: Callable[[Found], str]
) -> None:
    """Puts results between the two marks of `page`, and their tables and figures beside it.

    Args:
        tables: writes them into a folder, and returns what the section is made of.
        section: the results as Markdown.

    Raises:
        InvalidInput: if the page is missing or lacks the two marks around the section; nothing is
            written then.
    """
    before, after = _around_section(page, study)
    text = section(tables(page.parent))
    write_text(page, f"{before}{begin_mark(study)}\n\n{text}\n{END}{after}")


def _around_section(page: Path, study: str) -> tuple[str, str]:
    begin = begin_mark(study)
    try:
        text = page.read_text(encoding="utf-8")
        before, rest = text.split(begin)
        _, after = rest.split(END)
    except (OSError, ValueError) as err:
        raise InvalidInput(
            f"{page} is not a page with the lines {begin!r} and {END!r}, each once; give the "
            "study's page to --page"
        ) from err
    return before, after


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """The rows as CSV, six digits of every number."""
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, columns, lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    write_text(path, buffer.getvalue())


def finite(value: float) -> float | None:
    """The value, None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def sentence(title: str) -> str:
    """The title with a full stop, unless it is a question."""
    return title if title.endswith("?") else f"{title}."


def percent(value: float | None, *, sign: str = "") -> str:
    """A fraction in percent, a dash where there is none."""
    return "–" if value is None else f"{100 * value:{sign}.1f}"


def with_sd(value: float | None, sd: float | None, *, sign: str = "") -> str:
    """`percent` of a mean, with its standard deviation where there is one."""
    return percent(value, sign=sign) + ("" if sd is None else f" ± {100 * sd:.1f}")


def about_intervals(compared: Iterable[Comparison | None]) -> list[str]:
    """What must be said of intervals of which some are from one seed; nothing if none is."""
    if all(found is None or found.seeds > 1 for found in compared):
        return []
    return [
        "Where there is one seed, interval and p are over patients alone: how much seeds differ is "
        "in neither."
    ]


def write_document(
    folder: Path, study: str, content: Mapping[str, Any], *, configuration: Configuration
) -> None:
    """`study.json`: the study's name, its configuration with its SHA-256, versions, and content;
    numbers that do not exist are null. Also as `<study>.json`, which stays when another study is
    written into the same folder."""
    document = {
        "study": study,
        "configuration_sha256": configuration.sha256,
        "frozen": configuration.content.frozen,
        "configuration": configuration.content.model_dump(mode="json"),
        "versions": library_versions(),
        **content,
    }
    text = json.dumps(without_nan(document), indent=2, ensure_ascii=False, allow_nan=False)
    for name in (study, "study"):
        write_text(folder / f"{name}.json", text + "\n")

"""What the privacy study leaves: one CSV, figures of numbers, `study.json`, its page's results.

No image and no reconstruction is ever written: rows are all that jobs hand over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Final

from fdfed.evaluation.results import library_versions
from fdfed.files.atomic_file import write_text
from fdfed.studies.page import rewrite_results, write_csv
from fdfed.studies.privacy.figures import draw_attacks
from fdfed.studies.privacy.membership import SUCCESS
from fdfed.studies.privacy.rows import PARTS, Row
from fdfed.studies.privacy.setting import Setting

STUDY: Final = "privacy"
_TITLES: Final = {
    "isometry": "The seven attacks on blinding",
    "peer": "A peer's prototypes from a returned cotangent",
    "reconstruction": "Image reconstruction",
    "membership": "Membership inference",
}
_COLUMNS: Final = tuple(field.name for field in fields(Row))


def write_privacy_study(
    out: Path, rows: Sequence[Row], *, seconds: Mapping[str, float], setting: Setting
) -> None:
    """`privacy.csv`, `privacy.svg` and `study.json` in `out`."""
    _write_tables(out, rows)
    document = {
        "study": STUDY,
        "setting": asdict(setting),
        "cpu_seconds": dict(seconds),
        "controls": controls(rows),
        "rows": [asdict(row) for row in rows],
        "versions": library_versions(),
    }
    write_text(out / "study.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def write_privacy_page(page: Path, rows: Sequence[Row], *, seconds: Mapping[str, float]) -> None:
    """Rewrites the results section of `page`; table and figures go beside it.

    Raises:
        InvalidInput: if the page is missing or lacks the two marks around the section.
    """
    rewrite_results(
        page,
        STUDY,
        lambda folder: _write_tables(folder, rows),
        lambda _: results_section(rows, seconds),
    )


def controls(rows: Iterable[Row]) -> dict[str, bool]:
    """Of each membership attack, whether it reaches an AUC of `SUCCESS` with no defence against a
    model that was overfit on purpose; if not, its other rows show nothing."""
    return {
        row.attack: row.value >= SUCCESS
        for row in rows
        if row.part == "membership"
        and row.measure == "AUC"
        and row.defence.startswith("none")
        and ";" not in row.defence
        and row.setting in ("", "batches of 1")
    }


def results_section(rows: Sequence[Row], seconds: Mapping[str, float]) -> str:
    """The results as Markdown: a table a part, a line an attack with a defence."""
    minutes = sum(seconds.values()) / 60
    parts = [f"{len(seconds)} jobs, {minutes:.1f} minutes of CPU."]
    if rows:
        parts.append("![What each attack achieves against each defence](privacy.svg)")
    for part in PARTS:
        chosen = [row for row in rows if row.part == part]
        if chosen:
            parts += [f"### {_TITLES[part]}", *_tables(chosen)]
    verdicts = [
        f"- {attack}: the positive control {'succeeds' if passed else '**fails**'}"
        for attack, passed in controls(rows).items()
    ]
    if verdicts:
        parts.append("\n".join(verdicts))
    return "\n\n".join(parts) + "\n"


def _write_tables(folder: Path, rows: Sequence[Row]) -> None:
    write_csv(folder / "privacy.csv", _COLUMNS, map(asdict, rows))
    if rows:
        draw_attacks(folder / "privacy.svg", rows)


def _tables(rows: Sequence[Row]) -> list[str]:
    """Measures as columns, so that those of one attack stand beside each other; what has other
    measures stands in a table of its own."""
    by_key: dict[tuple[str, str, str, str], dict[str, Row]] = {}
    for row in rows:
        by_key.setdefault(row.key, {})[row.measure] = row
    by_measures: dict[tuple[str, ...], list[dict[str, Row]]] = {}
    for found in by_key.values():
        by_measures.setdefault(tuple(found), []).append(found)
    return [_table(measures, lines) for measures, lines in by_measures.items()]


def _table(measures: Sequence[str], lines: Sequence[Mapping[str, Row]]) -> str:
    text = [
        f"| attack | defence | with | {' | '.join(measures)} | n |",
        "|---|---|---|" + "---|" * (len(measures) + 1),
    ]
    for found in lines:
        first = next(iter(found.values()))
        cells = " | ".join(_cell(found[measure]) for measure in measures)
        count = max(row.n for row in found.values())
        text.append(f"| {first.attack} | {first.defence} | {first.setting} | {cells} | {count} |")
    return "\n".join(text)


def _cell(row: Row) -> str:
    text = f"{row.value:.0e}" if 0 < abs(row.value) < 1e-3 else f"{row.value:.2f}"
    if row.low is not None and row.high is not None:
        text += f" ({row.low:.2f}–{row.high:.2f})"
    return text if row.reference is None else f"{text} [{row.reference:.2f}]"

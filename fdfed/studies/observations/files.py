"""What a view leaves: CSV, a figure, `study.json`, and its page's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fdfed.studies.five_losses import WITH, WITHOUT
from fdfed.studies.observations.views import Rows, Seen, View
from fdfed.studies.page import sentence, write_csv
from fdfed.studies.staged_report import Results, StagedReport

_NOTHING: Final = "–"


@dataclass(frozen=True, slots=True)
class Report(StagedReport[Rows]):
    """Writes what a view has to say at a stage."""

    view: View

    @property
    def study(self) -> str:
        return self.view.name

    def document(self, results: Results, found: Rows) -> Mapping[str, Any]:
        return {
            "title": self.view.title,
            "seeds": list(range(self.view.seeds)),
            "rows": found,
            "published": self.view.published or [],
            "note": self.view.note,
        }

    def section(self, results: Results, found: Rows) -> str:
        asked = self.view.design.agenda(self.stage, self.configuration.content)
        progress = self.progress(asked, results)
        parts = [f"{sentence(self.view.title)} {progress} All of it is exploratory."]
        if found and self.view.draw is not None:
            parts.append(f"![{self.view.title}]({self.view.name}.svg)")
        parts += tables_of(found) if found else ["No run is finished on both sides yet."]
        if self.view.published:
            parts += ["Published, on other data and networks:", _table(self.view.published)]
        if self.view.note:
            parts.append(self.view.note)
        return "\n\n".join(parts) + "\n"

    def _seen(self, results: Results) -> Seen:
        content = self.configuration.content
        found = self.view.design.finished(self.stage, content, results)
        return Seen(
            without={group: found[group, WITHOUT] for group in content.groups},
            with_loss={group: found[group, WITH] for group in content.groups},
        )

    def write_tables(self, folder: Path, results: Results, *, suffixes: Sequence[str]) -> Rows:
        seen = self._seen(results)
        rows = self.view.rows(seen)
        if rows:
            write_csv(folder / f"{self.view.name}.csv", list(rows[0]), rows)
        if seen.groups and self.view.draw is not None:
            for suffix in suffixes:
                self.view.draw(folder / f"{self.view.name}.{suffix}", seen)
        return rows


def tables_of(rows: Rows) -> list[str]:
    """Rows of a CSV as tables for a reader: a table for each `kind`, runs without and with L_fd
    side by side, an interval beside its estimate, and no column that says nothing."""
    kinds = dict.fromkeys(row.get("kind") for row in rows)
    found = []
    for kind in kinds:
        shown = [_with_intervals(row) for row in rows if row.get("kind") == kind]
        if "trained_with" in shown[0]:
            shown = _side_by_side(shown)
        empty = {name for name in shown[0] if all(row[name] == _NOTHING for row in shown)}
        found.append(
            _table([{k: v for k, v in row.items() if k not in empty | {"kind"}} for row in shown])
        )
    return found


def _with_intervals(row: Mapping[str, Any]) -> dict[str, str]:
    """The row as text, `x`, `x_low` and `x_high` in one cell."""
    shown = {}
    for name, value in row.items():
        if name.endswith(("_low", "_high")):
            continue
        shown[name] = _cell(value)
        if value is not None and f"{name}_low" in row:
            shown[name] += f" ({_cell(row[f'{name}_low'])} to {_cell(row[f'{name}_high'])})"
    return shown


def _side_by_side(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """One row for two that differ in `trained_with`; what is equal in all pairs stands once."""
    before = [row for row in rows if row["trained_with"] == WITHOUT]
    after = [row for row in rows if row["trained_with"] == WITH]
    pairs = list(zip(before, after, strict=True))
    names = [name for name in rows[0] if name != "trained_with"]
    equal = {name for name in names if all(a[name] == b[name] for a, b in pairs)}
    return [
        {
            key: value
            for name in names
            for key, value in (
                [(name, a[name])]
                if name in equal
                else [(f"{name}, {WITHOUT}", a[name]), (f"{name}, {WITH}", b[name])]
            )
        }
        for a, b in pairs
    ]


def _table(rows: Rows) -> str:
    columns = list(rows[0])
    heads = " | ".join(map(_heading, columns))
    lines = [f"| {heads} |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def _heading(column: str) -> str:
    name, *side = column.split(", ")
    return ", ".join([name.replace("_", " "), *side])


def _cell(value: Any) -> str:
    if value is None:
        return _NOTHING
    return f"{value:.3g}" if isinstance(value, float) else str(value)

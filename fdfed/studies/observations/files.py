"""What a view leaves: CSV, a figure, `study.json`, and its page's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdfed.studies.five_losses import WITH, WITHOUT
from fdfed.studies.observations.views import Rows, Seen, View
from fdfed.studies.page import write_csv
from fdfed.studies.staged_report import Results, StagedReport


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
        parts = [
            f"{self.view.title}. {self.progress(asked, results)} All of it is exploratory.",
        ]
        if found and self.view.draw is not None:
            parts.append(f"![{self.view.title}]({self.view.name}.svg)")
        parts.append(_table(found) if found else "No run is finished on both sides yet.")
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


def _table(rows: Rows) -> str:
    columns = list(rows[0])
    heads = " | ".join(name.replace("_", " ") for name in columns)
    lines = [f"| {heads} |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)

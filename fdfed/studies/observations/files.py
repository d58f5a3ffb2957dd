"""What a view leaves: CSV, a figure, `study.json`, and its page's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdfed.studies.baselines.agenda import Stage
from fdfed.studies.baselines.configuration import Configuration
from fdfed.studies.five_losses import WITH, WITHOUT
from fdfed.studies.observations.views import Rows, Seen, View
from fdfed.studies.page import check_page, rewrite_section, write_csv, write_document
from fdfed.studies.trials import TrialResult

Results = Mapping[str, TrialResult]


@dataclass(frozen=True, slots=True)
class Report:
    """Writes what a view has to say at a stage."""

    view: View
    stage: Stage
    configuration: Configuration

    def write_study(self, out: Path, results: Results) -> None:
        """`<name>.csv`, the figure as SVG and PNG where the view has one, and `study.json`."""
        rows = self._write_tables(out, results, suffixes=("svg", "png"))
        document = {
            "stage": self.stage,
            "title": self.view.title,
            "seeds": list(range(self.view.seeds)),
            "rows": rows,
            "published": self.view.published or [],
            "note": self.view.note,
        }
        write_document(out, self.view.name, document, configuration=self.configuration)

    def write_page(self, page: Path, results: Results) -> None:
        """Rewrites the results section of `page`; table and figure (SVG) go beside it.

        Raises:
            InvalidInput: if the page is missing or lacks the two marks around the section.
        """
        check_page(page, self.view.name)
        self._write_tables(page.parent, results, suffixes=("svg",))
        rewrite_section(page, self.view.name, self.section(results))

    def section(self, results: Results) -> str:
        """The results as Markdown."""
        asked = self.view.design.agenda(self.stage, self.configuration.content)
        done = sum(trial.name in results for trial in asked)
        seen = self._seen(results)
        parts = [
            f"{self.view.title}. Stage: {self.stage}. Configuration SHA-256 "
            f"`{self.configuration.sha256}`. {done} of {len(asked)} trials are finished. All of it "
            "is exploratory.",
        ]
        if seen.groups and self.view.draw is not None:
            parts.append(f"![{self.view.title}]({self.view.name}.svg)")
        rows = self.view.rows(seen)
        parts.append(_table(rows) if rows else "No run is finished on both sides yet.")
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

    def _write_tables(self, folder: Path, results: Results, *, suffixes: Sequence[str]) -> Rows:
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

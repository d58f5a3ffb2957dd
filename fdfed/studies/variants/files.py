"""What a study of variants leaves: CSV, a figure, `study.json`, and its page's results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from fdfed.evaluation.figure_style import legend_above, save_chart, series_look
from fdfed.studies.five_losses import FIVE_LOSSES
from fdfed.studies.observations.tables import by_difficulty
from fdfed.studies.page import about_intervals, percent, sentence, write_csv
from fdfed.studies.staged_report import Results, StagedReport
from fdfed.studies.variants.analysis import Row, analyse
from fdfed.studies.variants.design import Design
from fdfed.studies.variants.designs import (
    FIGURE_10,
    NETWORKS,
    NOISE,
    TABLE_2,
    noisy,
)

Draw = Callable[[Path, Sequence[Row]], None]

_ROW_HEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class Report(StagedReport[list[Row]]):
    """Writes what a study of variants has to say at a stage."""

    design: Design

    @property
    def study(self) -> str:
        return self.design.name

    def document(self, results: Results, found: list[Row]) -> Mapping[str, Any]:
        return {
            "seeds": list(range(self.design.seeds)),
            "rows": [asdict(row) for row in found],
            "published": [asdict(entry) for entry in self.design.published],
            "by_difficulty": self._by_difficulty(results),
            "plans": {
                f"{group} {variant.name}": self.design.trial(
                    self.stage, self.configuration.content, group, variant, seed=0
                ).plan.model_dump(mode="json")
                for group in self.configuration.content.groups
                for variant in self.design.of_group(group)
            },
        }

    def section(self, results: Results, found: list[Row]) -> str:
        design, content = self.design, self.configuration.content
        progress = self.progress(design.agenda(self.stage, content), results)
        parts = [f"{sentence(design.title)} {progress} All of it is exploratory."]
        if any(row.seeds for row in found):
            parts.append(f"![{design.title}]({design.name}.svg)")
        for group in content.groups:
            parts += [
                f"### {group.capitalize()}",
                _table([row for row in found if row.group == group]),
            ]
        parts += about_intervals(row.lead for row in found)
        hard = self._by_difficulty(results)
        if hard:
            parts += ["### Worst-off and best-off test images", _difficulty_table(hard)]
        if design.published:
            lines = ["| published, on other data | value |", "|---|---|"]
            lines += [f"| {entry.what} | {entry.value} |" for entry in design.published]
            parts.append("\n".join(lines))
        if design.note:
            parts.append(design.note)
        return "\n\n".join(parts) + "\n"

    def _by_difficulty(self, results: Results) -> list[dict[str, Any]]:
        """Of Table 2: all, worst-off and best-off images, by network."""
        if self.design is not TABLE_2:
            return []
        content = self.configuration.content
        found = self.design.finished(self.stage, content, results)
        return [
            {"network": network, **row}
            for group in content.groups
            for network in NETWORKS
            for row in by_difficulty(
                found[group, f"{network}, no L_fd"], found[group, f"{network}, L_fd"]
            )
        ]

    def write_tables(self, folder: Path, results: Results, *, suffixes: Sequence[str]) -> list[Row]:
        rows = analyse(self.design, self.stage, self.configuration.content, results)
        table = [_csv_row(row) for row in rows]
        sites = list(dict.fromkeys(key for row in table for key in row))
        write_csv(folder / f"{self.design.name}.csv", sites, table)
        hard = self._by_difficulty(results)
        if hard:
            write_csv(folder / f"{self.design.name}-difficulty.csv", list(hard[0]), hard)
        found = [row for row in rows if row.mean_dice is not None]
        if found:
            draw = draw_noise if self.design is FIGURE_10 else draw_rows
            for suffix in suffixes:
                draw(folder / f"{self.design.name}.{suffix}", found)
        return rows


def _csv_row(row: Row) -> dict[str, Any]:
    lead = row.lead
    values: dict[str, Any] = {
        "group": row.group, "variant": row.variant, "seeds": row.seeds, "asked": row.asked,
        "mean_dice": row.mean_dice, "against": row.against,
        "lead": lead and lead.estimate, "low": lead and lead.low, "high": lead and lead.high,
        "p": lead and lead.p,
    }  # fmt: skip
    values |= {f"dice {site}": value for site, value in row.dice.items()}
    return values | {f"iou {site}": value for site, value in row.iou.items()}


def draw_rows(path: Path, rows: Sequence[Row]) -> None:
    """A panel a group: every variant's Dice at each site."""
    groups = list(dict.fromkeys(row.group for row in rows))

    def draw(axes: Sequence[Axes]) -> None:
        for panel, group in zip(axes, groups, strict=True):
            chosen = [row for row in rows if row.group == group]
            sites = list(dict.fromkeys(site for row in chosen for site in row.dice))
            for number, site in enumerate(sites):
                colour, _, marker = series_look(number)
                points = [
                    (100 * row.dice[site], place)
                    for place, row in enumerate(chosen)
                    if site in row.dice
                ]
                panel.plot(
                    *zip(*points, strict=True), color=colour, marker=marker, ls="none", label=site
                )
            panel.set_yticks(range(len(chosen)), [row.variant for row in chosen])
            panel.set_ylim(len(chosen) - 0.5, -0.5)
            panel.grid(visible=True, axis="x")
            panel.grid(visible=False, axis="y")
            panel.set_xlabel("Dice, %")
            panel.set_title(group, loc="left", fontsize=9.5)
            panel.legend(loc="best")

    most = max(sum(row.group == group for row in rows) for group in groups)
    save_chart(
        path, draw, panels=len(groups), width=5.2 * len(groups), height=1.3 + _ROW_HEIGHT * most
    )


def draw_noise(path: Path, rows: Sequence[Row]) -> None:
    """A panel a group: how far Dice falls with σ, a line a loss, against the same loss without
    noise."""
    groups = list(dict.fromkeys(row.group for row in rows))

    def draw(axes: Sequence[Axes]) -> None:
        for panel, group in zip(axes, groups, strict=True):
            chosen = [row for row in rows if row.group == group]
            for number, loss in enumerate(FIVE_LOSSES):
                points = changes_by_noise(chosen, loss)
                if points:
                    colour, dashes, marker = series_look(number)
                    places, change = zip(*points, strict=True)
                    panel.plot(
                        places, change, color=colour, linestyle=dashes, marker=marker, label=loss
                    )
            panel.set_xlabel("σ of the noise on training images")
            panel.set_title(group, loc="left", fontsize=9.5)
        axes[0].set_ylabel("change of Dice, points")
        legend_above(axes[0])

    save_chart(path, draw, panels=len(groups), width=4.6 * len(groups), height=3.3)


def changes_by_noise(rows: Sequence[Row], loss: str) -> list[tuple[float, float]]:
    """(σ, change in points of Dice) from σ = 0 on, over the seeds that both have: there may be more
    of the clear images'. Empty where nothing with noise is done."""
    leads = {row.variant: row.lead for row in rows}
    found = [
        (sigma, 100 * lead.estimate)
        for sigma in NOISE
        if (lead := leads.get(noisy(loss, sigma))) is not None
    ]
    return [(0.0, 0.0), *found] if found else []


def _table(rows: Sequence[Row]) -> str:
    sites = list(dict.fromkeys(site for row in rows for site in row.dice))
    heads = [
        "variant",
        "seeds",
        *(f"Dice / IoU {site}" for site in sites),
        "against",
        "lead (95 %)",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [row.variant, f"{row.seeds} of {row.asked}"]
        cells += [f"{percent(row.dice.get(s))} / {percent(row.iou.get(s))}" for s in sites]
        lead = row.lead
        text = "–"
        if lead is not None:
            low, high = percent(lead.low, sign="+"), percent(lead.high, sign="+")
            text = f"{percent(lead.estimate, sign='+')} ({low} to {high}), p {lead.p:.2g}"
        cells += [row.against or "–", text]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _difficulty_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "The sets are fixed by the runs without L_fd and do not overlap; Dice / IoU.",
        "",
        "| network | site | images | n | without | with | change in Dice |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sides = [
            f"{percent(row[f'dice_{side}'])} / {percent(row[f'iou_{side}'])}"
            for side in ("without", "with")
        ]
        lines.append(
            f"| {row['network']} | {row['site']} | {row['images']} | {row['n']} | {sides[0]} | "
            f"{sides[1]} | {percent(row['dice_change'], sign='+')} |"
        )
    return "\n".join(lines)

"""What the data-addition study leaves: CSV, figures, `study.json`, and its page's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes

from fdfed.evaluation.figure_style import legend_above, save_chart, series_look
from fdfed.studies.addition import published
from fdfed.studies.addition.agenda import FIFTEENS, PAIRS, PROTOCOLS, SEEDS, agenda
from fdfed.studies.addition.analysis import HARM, Cell, Verdict, analyse
from fdfed.studies.five_losses import FIVE_LOSSES
from fdfed.studies.page import percent, write_csv
from fdfed.studies.staged_report import Results, StagedReport

STUDY: Final = "data-addition"


@dataclass(frozen=True, slots=True)
class Report(StagedReport[tuple[list[Cell], list[Verdict]]]):
    """Writes what the data-addition study has to say at a stage."""

    @property
    def study(self) -> str:
        return STUDY

    def document(
        self, results: Results, found: tuple[list[Cell], list[Verdict]]
    ) -> Mapping[str, Any]:
        cells, verdicts = found
        return {
            "seeds": list(range(SEEDS)),
            "cells": [_row(cell) for cell in cells],
            "verdicts": [
                asdict(entry) | {"never_harmful": entry.never_harmful} for entry in verdicts
            ],
            "published": {"ticks": dict(published.TICKS), "dice": dict(published.DICE)},
        }

    def section(self, results: Results, found: tuple[list[Cell], list[Verdict]]) -> str:
        cells, verdicts = found
        parts = [
            self.progress(agenda(self.stage, self.configuration.content), results),
            "### Never harmful?",
            _verdicts_table(verdicts),
        ]
        for protocol in PROTOCOLS:
            if any(cell.dice is not None for cell in cells if cell.protocol == protocol):
                parts.append(f"![Dice of the base site, {protocol}]({STUDY}-{protocol}.svg)")
            for pair in PAIRS:
                chosen = [c for c in cells if (c.pair, c.protocol) == (pair, protocol)]
                title = f"### {pair.base} + {pair.novel}, {protocol}"
                parts += [title, _cells_table(chosen)]
        return "\n\n".join([*parts, "### Published", _published_tables()]) + "\n"

    def write_tables(
        self, folder: Path, results: Results, *, suffixes: Sequence[str]
    ) -> tuple[list[Cell], list[Verdict]]:
        cells, verdicts = analyse(self.stage, self.configuration.content, results)
        rows = [_row(cell) for cell in cells]
        write_csv(folder / f"{STUDY}.csv", list(rows[0]), rows)
        for protocol in PROTOCOLS:
            chosen = [c for c in cells if c.protocol == protocol and c.dice is not None]
            if chosen:
                for suffix in suffixes:
                    draw_additions(folder / f"{STUDY}-{protocol}.{suffix}", chosen)
        return cells, verdicts


def _row(cell: Cell) -> dict[str, Any]:
    values = {"base": cell.pair.base, "novel": cell.pair.novel}
    return values | {key: value for key, value in asdict(cell).items() if key != "pair"}


def draw_additions(path: Path, cells: Sequence[Cell]) -> None:
    """The base site's Dice against how much joined, a line a loss, and what the paper shows."""

    def draw(axes: Sequence[Axes]) -> None:
        for panel, pair in zip(axes, PAIRS, strict=False):
            ticks = ["alone", *(addition.name for addition in pair.additions)]
            counted = {addition.name for addition in FIFTEENS}
            for number, loss in enumerate(FIVE_LOSSES):
                own = [
                    (cell.addition, 100 * cell.dice)
                    for cell in cells
                    if (cell.pair, cell.loss) == (pair, loss) and cell.dice is not None
                ]
                # Shares and numbers of images are two series: no line leads from one to the other.
                for label, is_count in ((loss, False), ("_", True)):
                    _line(
                        panel,
                        number,
                        label,
                        [(ticks.index(n), dice) for n, dice in own if (n in counted) == is_count],
                    )
            _finish(panel, f"{pair.base} + {pair.novel}, here", ticks)
        for panel, (title, labels) in zip(axes[len(PAIRS) :], published.TICKS.items(), strict=True):
            for number, loss in enumerate(FIVE_LOSSES):
                _line(panel, number, loss, list(enumerate(published.DICE[title][loss])))
            _finish(panel, f"published: {title}", labels)
        axes[0].set_ylabel("Dice of the base site, %")
        legend_above(axes[0])

    panels = len(PAIRS) + len(published.TICKS)
    save_chart(path, draw, panels=panels, width=3.9 * panels, height=3.6)


def _line(axes: Axes, number: int, loss: str, points: Sequence[tuple[int, float]]) -> None:
    if points:
        colour, dashes, marker = series_look(number)
        places, dice = zip(*points, strict=True)
        axes.plot(places, dice, color=colour, linestyle=dashes, marker=marker, label=loss)


def _finish(axes: Axes, title: str, ticks: Sequence[str]) -> None:
    axes.set_title(title, loc="left", fontsize=9.5)
    axes.set_xticks(
        range(len(ticks)), [tick.replace(" images", "\nim.") for tick in ticks], fontsize=8
    )
    axes.set_xlabel("of the novel site's training images")


def _verdicts_table(verdicts: Sequence[Verdict]) -> str:
    lines = [
        f"An addition is harmless if the lower bound is above −{100 * HARM:.1f} Dice, for all "
        "additions of a loss at once (one-sided, 95 %).",
        "",
        "| base + novel | protocol | loss | lowest bound | never harmful |",
        "|---|---|---|---|---|",
    ]
    words = {None: "not known: cells are missing", True: "yes", False: "not shown"}
    for entry in verdicts:
        lines.append(
            f"| {entry.pair.base} + {entry.pair.novel} | {entry.protocol} | {entry.loss} | "
            f"{percent(entry.bound, sign='+')} | {words[entry.never_harmful]} |"
        )
    return "\n".join(lines)


def _cells_table(cells: Sequence[Cell]) -> str:
    names = list(dict.fromkeys(cell.addition for cell in cells))
    lines = ["| loss | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 1)]
    for loss in FIVE_LOSSES:
        row = [_cell(cell) for cell in cells if cell.loss == loss]
        lines.append(f"| {loss} | " + " | ".join(row) + " |")
    seeds = f"Dice, in brackets the change against the base alone; {SEEDS} seeds where complete."
    return "\n".join([*lines, "", seeds])


def _cell(cell: Cell) -> str:
    if cell.dice is None:
        return "–"
    text = percent(cell.dice)
    if cell.change is not None:
        text += f" ({percent(cell.change, sign='+')})"
    if cell.forgetting is not None:
        text += f", forgot {percent(cell.forgetting, sign='+')}"
    return text if cell.seeds == SEEDS else f"{text} [{cell.seeds} of {SEEDS}]"


def _published_tables() -> str:
    parts = [
        "From the paper's Fig. 7, read off its points (± 0.3); other data, networks and sizes."
    ]
    for title, ticks in published.TICKS.items():
        lines = [f"| {title} | " + " | ".join(ticks) + " |", "|" + "---|" * (len(ticks) + 1)]
        for loss in FIVE_LOSSES:
            values = " | ".join(f"{value:.1f}" for value in published.DICE[title][loss])
            lines.append(f"| {loss} | {values} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)

"""The study's figure: reconstruction and membership against each defence. Numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes

from fdfed.evaluation.figure_style import save_chart, series_look
from fdfed.studies.privacy.rows import Row

_PANELS: Final = (
    ("reconstruction", "SSIM", "SSIM of the reconstruction"),
    ("membership", "AUC", "AUC of membership inference"),
)
_LABEL_CHARACTERS: Final = 72


def draw_attacks(path: Path, rows: Sequence[Row]) -> None:
    """A panel for each part that has rows: a point an attack with a defence, its interval, and a
    short line where the best guess without access lies."""
    panels = [
        (title, found)
        for part, measure, title in _PANELS
        if (found := [row for row in rows if (row.part, row.measure) == (part, measure)])
    ]
    if not panels:
        return
    longest = max(len(found) for _, found in panels)

    def draw(axes: Sequence[Axes]) -> None:
        for panel, (title, found) in zip(axes, panels, strict=True):
            _draw_panel(panel, title, found)

    save_chart(path, draw, panels=len(panels), width=7.2 * len(panels), height=0.24 * longest + 1)


def _draw_panel(axes: Axes, title: str, rows: Sequence[Row]) -> None:
    text = mpl.rcParams["text.color"]
    attacks = list(dict.fromkeys(row.attack for row in rows))
    for place, row in enumerate(rows):
        colour, _, marker = series_look(attacks.index(row.attack))
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=1)
        if row.reference is not None:
            axes.plot([row.reference] * 2, [place - 0.4, place + 0.4], color=text, linewidth=1)
        axes.plot([row.value], [place], color=colour, marker=marker, linestyle="none")
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=7.5)
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=9.5)
    axes.set_xlabel("line: the reference, without access")
    axes.grid(visible=True, axis="x")


def _label(row: Row) -> str:
    text = f"{row.attack}: {row.defence}" + (f" ({row.setting})" if row.setting else "")
    return text if len(text) <= _LABEL_CHARACTERS else text[: _LABEL_CHARACTERS - 1] + "…"

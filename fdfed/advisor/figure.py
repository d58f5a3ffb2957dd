"""The shift of every pair at every tap, as one figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from fdfed.advisor.advice import Advice
from fdfed.evaluation.figure_style import save_chart

_DARK_BELOW = 0.62
"""Share of the colour scale below which a cell wants light text."""


def draw_advice(path: Path, advice: Advice) -> None:
    """Pairs down, taps across, the base's pairs first; SVG or PNG by the name of `path`."""
    taps = tuple(dict.fromkeys(tap for found in advice.shifts.values() for tap in found))
    pairs = tuple(advice.shifts)
    grid = [
        [advice.shifts[pair][tap].size if tap in advice.shifts[pair] else math.nan for tap in taps]
        for pair in pairs
    ]

    def draw(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        top = max(value for row in grid for value in row if not math.isnan(value)) or 1.0
        image = axes.imshow(grid, cmap="cividis", vmin=0, vmax=top, aspect="auto")
        for row, values in enumerate(grid):
            for column, value in enumerate(values):
                if math.isnan(value):
                    continue
                colour = "#ffffff" if value / top < _DARK_BELOW else "#101010"
                text = f"{value:.2f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(taps)), taps)
        axes.set_yticks(range(len(pairs)), [pair.replace(" ", " – ") for pair in pairs])
        axes.grid(visible=False)
        axes.tick_params(length=0)
        bar = axes.figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05)
        bar.outline.set_visible(False)
        bar.set_label("shift, in scatters between patients")

    height = 1.1 + 0.34 * len(pairs)
    save_chart(path, draw, panels=1, width=2.6 + 0.62 * len(taps), height=height)

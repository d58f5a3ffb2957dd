"""The comparison as a picture: our method's lead over every other, and Dice by site."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from fdfed.evaluation.figure_style import save_chart, series_look
from fdfed.studies.baselines.analysis import Analysis

_MARKS = {"baseline": 0, "without": 1, "reference": 5}
_ROW_HEIGHT = 0.27


def draw_comparison(path: Path, analysis: Analysis, *, ours: str) -> None:
    """Leads with their 95 % intervals, and each site's Dice; nothing where no method can be
    compared with ours yet. Rows of fewer seeds than others say so."""
    groups = max(len(lead.groups) for lead in analysis.leads)
    leads = [
        (lead, lead.compared)
        for lead in analysis.leads
        if lead.metric == "dice" and len(lead.groups) == groups and lead.compared is not None
    ]
    methods = [ours, *(lead.over for lead, _ in leads)]
    if not leads:
        return
    most = max(found.seeds for _, found in leads)
    labels = [
        ours,
        *(
            lead.over if found.seeds == most else f"{lead.over} ({_seeds(found.seeds)})"
            for lead, found in leads
        ),
    ]

    def draw(axes: Sequence[Axes]) -> None:
        left, right = axes
        seen: set[str] = set()
        for place, (lead, found) in enumerate(leads, start=1):
            colour, _, marker = series_look(_MARKS[lead.role])
            left.errorbar(
                100 * found.estimate,
                place,
                xerr=[[100 * (found.estimate - found.low)], [100 * (found.high - found.estimate)]],
                color=colour,
                marker=marker,
                linestyle="none",
                capsize=2,
                label=None if lead.role in seen else lead.role,
            )
            seen.add(lead.role)
        left.axvline(0, color="#777777", linewidth=0.8)
        left.set_xlabel(f"lead of {ours}, Dice points, 95 % interval")
        left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
        _rows_of(left, labels)
        sites = list(dict.fromkeys(site for row in analysis.rows for site in row.dice))
        for number, site in enumerate(sites):
            colour, _, marker = series_look(number)
            points = [
                (100 * row.dice[site], methods.index(row.method))
                for row in analysis.rows
                if site in row.dice and row.method in methods
            ]
            right.plot(
                *zip(*points, strict=True), color=colour, marker=marker, ls="none", label=site
            )
        right.set_xlabel("Dice, %")
        right.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
        _rows_of(right, [""] * len(labels))

    height = 1.4 + _ROW_HEIGHT * len(methods)
    save_chart(path, draw, panels=2, width=9.2, height=height)


def _seeds(count: int) -> str:
    return f"{count} seed" if count == 1 else f"{count} seeds"


def _rows_of(axes: Axes, methods: Sequence[str]) -> None:
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")

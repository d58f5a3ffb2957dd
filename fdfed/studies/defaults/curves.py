"""Dice against training steps: whether the budget reaches a plateau."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from fdfed.evaluation.figure_style import save_chart, series_look
from fdfed.studies.trials import TrialResult

_BASE = "base"
_WIDTH_OF_PANEL = 4.6


def draw_curves(path: Path, trials: Sequence[TrialResult], *, compared: Sequence[str]) -> None:
    """A panel a group: the mean validation Dice (over sites, folds and seeds) of every method in
    its base configuration, against steps, as SVG.

    Args:
        compared: methods that are drawn over the folds and seeds that all of them have, so that no
            curve lies higher for an easier fold; others are drawn over what they have of these.
    """
    base = [trial for trial in trials if trial.config == _BASE and trial.curve]
    panels = {
        group: found
        for group in sorted({trial.group for trial in base})
        if (found := _comparable([t for t in base if t.group == group], compared))
    }
    methods = sorted({trial.method for found in panels.values() for trial in found})
    if not panels:
        return

    def draw(axes: Sequence[Axes]) -> None:
        for panel, (group, found) in zip(axes, panels.items(), strict=True):
            _draw_panel(panel, found, methods)
            panel.set_title(group, loc="left", fontsize=9.5)

    width = _WIDTH_OF_PANEL * len(panels)
    save_chart(path, draw, panels=len(panels), width=width, height=3.2)


def _comparable(trials: Sequence[TrialResult], compared: Sequence[str]) -> list[TrialResult]:
    """The trials of the folds and seeds that all of the compared methods have."""
    replicates = [
        {(t.fold, t.seed) for t in trials if t.method == method}
        for method in compared
        if any(t.method == method for t in trials)
    ]
    if not replicates:
        return list(trials)
    common = set.intersection(*replicates)
    return [trial for trial in trials if (trial.fold, trial.seed) in common]


def _draw_panel(axes: Axes, trials: Sequence[TrialResult], methods: Sequence[str]) -> None:
    for number, method in enumerate(methods):
        chosen = [trial for trial in trials if trial.method == method]
        if not chosen:
            continue
        steps, dice = mean_curve(chosen)
        colour, line, marker = series_look(number)
        axes.plot(steps, dice, color=colour, linestyle=line, marker=marker, label=method)
    axes.set_xlabel("training steps at each site")
    axes.set_ylabel("validation Dice, %")
    axes.legend(loc="lower right", ncols=2)


def mean_curve(trials: Sequence[TrialResult]) -> tuple[list[int], list[float]]:
    """Steps, and the mean over trials of the mean over sites of Dice, in percent; steps that not
    every trial was validated at are left out."""
    curves = [
        {steps: math.fsum(dice.values()) / len(dice) for steps, dice in trial.curve}
        for trial in trials
    ]
    common = sorted(set.intersection(*(set(curve) for curve in curves)))
    means = [100 * math.fsum(curve[s] for curve in curves) / len(curves) for s in common]
    return common, means

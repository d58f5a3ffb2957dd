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


def draw_curves(path: Path, trials: Sequence[TrialResult]) -> None:
    """A panel a group: the mean validation Dice (over sites, folds and seeds) of every method in
    its base configuration, against steps, as SVG."""
    base = [trial for trial in trials if trial.config == _BASE and trial.curve]
    groups = sorted({trial.group for trial in base})
    methods = sorted({trial.method for trial in base})
    if not groups:
        return

    def draw(panels: Sequence[Axes]) -> None:
        for axes, group in zip(panels, groups, strict=True):
            for number, method in enumerate(methods):
                chosen = [t for t in base if (t.group, t.method) == (group, method)]
                if not chosen:
                    continue
                steps, dice = mean_curve(chosen)
                colour, line, marker = series_look(number)
                axes.plot(steps, dice, color=colour, linestyle=line, marker=marker, label=method)
            axes.set_title(group, loc="left", fontsize=9.5)
            axes.set_xlabel("training steps at each site")
            axes.set_ylabel("validation Dice, %")
            axes.legend(loc="lower right", ncols=2)

    width = _WIDTH_OF_PANEL * len(groups)
    save_chart(path, draw, panels=len(groups), width=width, height=3.2)


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

"""What additions did to the base site: differences to itself alone, and bounds on the harm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from fdfed.evaluation.significance import bootstrap, compare, simultaneous_lower_bounds
from fdfed.studies.addition.agenda import (
    PAIRS,
    PROTOCOLS,
    SEEDS,
    Pair,
    Protocol,
    addition_trial,
    base_trial,
)
from fdfed.studies.baselines.agenda import Stage
from fdfed.studies.baselines.analysis import differences, site_means
from fdfed.studies.baselines.configuration import Comparison
from fdfed.studies.five_losses import FIVE_LOSSES
from fdfed.studies.trials import Trial, TrialResult

HARM: Final = 0.005
"""Half a Dice point: an addition whose lower bound is above −`HARM` does no harm."""

BySeed = dict[int, TrialResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One addition under one loss; Dice are fractions, of the base site's test patients."""

    pair: Pair
    protocol: Protocol
    loss: str
    addition: str
    """`alone`, or how much of the novel site joined."""
    seeds: int
    dice: float | None = None
    change: float | None = None
    """Against the base site alone with the same loss and seeds."""
    low: float | None = None
    """Of the change: 95 % interval, for this cell alone."""
    high: float | None = None
    bound: float | None = None
    """Simultaneous one-sided 95 % lower bound over all additions of the loss and pair."""
    forgetting: float | None = None
    """Joining only: the base site's validation Dice when the other joined, less that over the last
    fifth of the steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a loss made additions harmless for a base site."""

    pair: Pair
    protocol: Protocol
    loss: str
    bound: float | None
    """The smallest over all additions."""
    complete: bool

    @property
    def never_harmful(self) -> bool | None:
        """Whether the bound excludes harm; None while a cell is missing."""
        if not self.complete or self.bound is None:
            return None
        return self.bound > -HARM


def analyse(
    stage: Stage, comparison: Comparison, results: Mapping[str, TrialResult]
) -> tuple[list[Cell], list[Verdict]]:
    """Every cell, empty where nothing is finished, and the verdict on every loss."""
    cells: list[Cell] = []
    verdicts = []
    for pair in PAIRS:
        for protocol in PROTOCOLS:
            for loss in FIVE_LOSSES:
                found = _curve(stage, comparison, results, pair, protocol, loss)
                cells += found
                bounds = [cell.bound for cell in found if cell.bound is not None]
                complete = all(cell.seeds == SEEDS for cell in found)
                verdicts.append(
                    Verdict(
                        pair=pair,
                        protocol=protocol,
                        loss=loss,
                        bound=min(bounds, default=None),
                        complete=complete,
                    )
                )
    return cells, verdicts


def _curve(  # noqa: PLR0917 - the coordinates of a curve
    stage: Stage,
    comparison: Comparison,
    results: Mapping[str, TrialResult],
    pair: Pair,
    protocol: Protocol,
    loss: str,
) -> list[Cell]:
    alone = _finished(
        {s: base_trial(stage, comparison, pair, loss, seed=s) for s in range(SEEDS)}, results, pair
    )
    joined = {
        addition.name: _finished(
            {
                seed: addition_trial(
                    stage, comparison, pair, protocol, loss, addition=addition, seed=seed
                )
                for seed in range(SEEDS)
            },
            results,
            pair,
        )
        for addition in pair.additions
    }
    known = [trials for trials in joined.values() if trials]
    seeds = sorted(set(alone).intersection(*known))
    bounds = _bounds(alone, joined, seeds)

    def cell(name: str, trials: BySeed) -> Cell:
        return Cell(
            pair=pair,
            protocol=protocol,
            loss=loss,
            addition=name,
            seeds=len(trials),
            dice=site_means(trials, trials).get(pair.base),
        )

    cells = [cell("alone", alone)]
    for name, trials in joined.items():
        own = cell(name, trials)
        values = differences([(trials, alone)])
        if values is not None:
            found = compare(values)
            own = replace(own, change=found.estimate, low=found.low, high=found.high)
        if protocol == "joining":
            own = replace(own, forgetting=_forgetting(trials, pair))
        cells.append(replace(own, bound=bounds.get(name)))
    return cells


def _finished(
    trials: Mapping[int, Trial], results: Mapping[str, TrialResult], pair: Pair
) -> BySeed:
    """The finished trials by seed, with the base site's images alone."""
    found = {seed: results[t.name] for seed, t in trials.items() if t.name in results}
    return {
        seed: replace(r, images=[image for image in r.images if image.site == pair.base])
        for seed, r in found.items()
    }


def _bounds(alone: BySeed, joined: Mapping[str, BySeed], seeds: list[int]) -> dict[str, float]:
    """Simultaneous over the additions that are finished, on the seeds that all of them have."""
    if not seeds:
        return {}
    base = {seed: alone[seed] for seed in seeds}
    names, estimates, draws = [], [], []
    for name, trials in joined.items():
        if not trials:
            continue
        values = differences([({seed: trials[seed] for seed in seeds}, base)])
        if values is None:
            continue
        names.append(name)
        estimates.append(float(np.mean([v.mean() for v in values.values()])))
        # The same generator for all: the resamples are those of one draw.
        draws.append(bootstrap(values))
    if not names:
        return {}
    bounds = simultaneous_lower_bounds(np.array(estimates), np.stack(draws, axis=1))
    return dict(zip(names, bounds.tolist(), strict=True))


def _forgetting(trials: BySeed, pair: Pair) -> float | None:
    found = []
    for result in trials.values():
        before = [
            dice[pair.base]
            for _, dice in result.curve
            if pair.base in dice and pair.novel not in dice
        ]
        after = result.site_scores.get(pair.base)
        if before and after is not None:
            found.append(before[-1] - after)
    return math.fsum(found) / len(found) if found else None

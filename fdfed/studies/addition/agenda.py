"""Which trials the data-addition study asks for.

A base site trains alone, or with a novel site that has a growing part of its images; the base
site's patients are the test. Two protocols: `scratch`, both from the first round on, and `joining`,
where the novel site joins the base's trained federation at the end of its first phase.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from fdfed.config import RunPlan, parse, warm_rounds
from fdfed.studies.baselines.agenda import SPLITS, Stage
from fdfed.studies.baselines.configuration import Comparison
from fdfed.studies.five_losses import FIVE_LOSSES, Recipe
from fdfed.studies.trials import Trial

Protocol = Literal["scratch", "joining"]
PROTOCOLS: Final[tuple[Protocol, ...]] = ("scratch", "joining")

WITHOUT_PEERS: Final[Mapping[str, str]] = {"fdfed": "fd"}
"""What a method is at a base site that is alone: there is nobody to exchange with."""

SEEDS: Final = 3
_STEP: Final = 15
"""Images by which the paper's ultrasound additions grow."""
_STEPS: Final = 4


@dataclass(frozen=True, slots=True)
class Addition:
    """A part of the novel site's training images: a share up to 1, else a number."""

    name: str
    share: float


SHARES: Final = (
    Addition("1/16", 1 / 16),
    Addition("1/8", 1 / 8),
    Addition("1/4", 1 / 4),
    Addition("1/2", 1 / 2),
    Addition("all", 1.0),
)
FIFTEENS: Final = tuple(
    Addition(f"{count} images", float(count)) for count in range(_STEP, _STEP * (_STEPS + 1), _STEP)
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A base site and the one that joins it."""

    group: str
    base: str
    novel: str
    additions: tuple[Addition, ...]


PAIRS: Final = (
    Pair("histology", "tnbc", "monuseg", SHARES),
    Pair("ultrasound", "busuclm", "busbra", (*SHARES, *FIFTEENS)),
)
"""TNBC + MoNuSeg as in the paper. BUS-UCLM + BUS-BRA stand for its US-TNBC + UDIAT, which are not
here."""


def agenda(stage: Stage, comparison: Comparison) -> list[Trial]:
    """All trials: base alone and then every addition, all losses of one addition before the next,
    both pairs; `scratch` before `joining`; all of it with one seed before the next."""
    return [
        trial
        for seed in range(SEEDS)
        for protocol in PROTOCOLS
        for pair in PAIRS
        for trial in _of_pair(stage, comparison, pair, protocol, seed=seed)
    ]


def _of_pair(
    stage: Stage, comparison: Comparison, pair: Pair, protocol: Protocol, *, seed: int
) -> list[Trial]:
    alone = {
        base_trial(stage, comparison, pair, loss, seed=seed).method: loss for loss in FIVE_LOSSES
    }
    trials = [base_trial(stage, comparison, pair, loss, seed=seed) for loss in alone.values()]
    return trials + [
        addition_trial(stage, comparison, pair, protocol, loss, addition=addition, seed=seed)
        for addition in pair.additions
        for loss in FIVE_LOSSES
    ]


def base_trial(stage: Stage, comparison: Comparison, pair: Pair, loss: str, *, seed: int) -> Trial:
    """The base site alone; the exchange's is that of L_fd."""
    recipe = FIVE_LOSSES[loss]
    recipe = replace(recipe, method=WITHOUT_PEERS.get(recipe.method, recipe.method))
    plan = _plan(stage, comparison, pair, recipe, sites=(pair.base,), seed=seed)
    return Trial(pair.group, recipe.method, "base alone", plan, opens_test=True)


def addition_trial(
    stage: Stage,
    comparison: Comparison,
    pair: Pair,
    protocol: Protocol,
    loss: str,
    *,
    addition: Addition,
    seed: int,
) -> Trial:
    """The base site and the novel one with a part of its images."""
    recipe = FIVE_LOSSES[loss]
    sites = (pair.base, pair.novel)
    plan = _plan(stage, comparison, pair, recipe, sites=sites, seed=seed)
    return Trial(
        pair.group,
        recipe.method,
        f"{protocol} + {addition.name}",
        plan,
        opens_test=True,
        shares={pair.novel: addition.share},
        # Where a method has a warm start, it ends then.
        joins_after=warm_rounds(plan.rounds) if protocol == "joining" else 0,
    )


def _plan(
    stage: Stage,
    comparison: Comparison,
    pair: Pair,
    recipe: Recipe,
    *,
    sites: tuple[str, ...],
    seed: int,
) -> RunPlan:
    values = comparison.values(pair.group, recipe.method, recipe.candidate)
    own = {"sites": sites, "seed": seed, "split": dict(SPLITS[stage]), "min_count": 1}
    return parse(RunPlan, {**values, **own}, source="the study")

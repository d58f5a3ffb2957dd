"""The study that picks the library's defaults: which trials it asks for, in which order.

Every method gets the same configurations in number (`TRIALS_PER_METHOD`), so none wins by having
been tuned more. Stages, each of which needs the results of those before it:

1. base      every method in its base configuration, on one fold
2. plateau   local training: does the setting reach the Dice that the study asks of it? And the
             restart between the phases alone: how much of a lead is the loss's?
             Then base on every fold, and pooled references
3. screen    every method's other configurations, on one fold
4. halving   the better half on a second fold, the better half of those on a third
5. schedule  steps per round and batch size, on each method's best
6. finals    each method's winner, five seeds on every fold, half as many steps more

Histology goes through all of them. Ultrasound, with the same methods, repeats base and finals: it
shows whether the choice carries over to another modality.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fdfed.config import RunPlan, parse
from fdfed.studies.halving import best_half
from fdfed.studies.held_out import DRAW
from fdfed.studies.merging import Changes, merged
from fdfed.studies.trials import ALGORITHM_1, Trial, TrialResult

FOLDS: Final = 3
SEEDS: Final = 5
BASE: Final = "base"
FINAL: Final = "final: "
"""Begins the name of a configuration in the finals, which train longer."""
FINAL_STEPS: Final = 900
RESTART: Final = "restart"
REFERENCES: Final[Mapping[str, Changes]] = {
    "local": {"strategy": "local", "loss": "seg"},
    # Phase 2 with α = 0: what its fresh start from the best round does without any new loss.
    RESTART: {
        "strategy": "fedavg",
        "loss": "fd",
        "alpha": {"mode": "fixed", "value": 0.0},
    },
    "pooled": {"strategy": "pooled", "loss": "seg"},
    # Its loss is not one of a run plan; the plan's says the phases, the method's the prototypes.
    ALGORITHM_1: {"strategy": "pooled", "loss": "fd"},
}
"""Not chosen from: each site alone, all images in one place, the latter by the paper's Algorithm 1,
and federated averaging with the restart between the phases."""


@dataclass(frozen=True, slots=True)
class Group:
    """Sites of one modality, and how their images are trained on."""

    name: str
    changes: Changes


HISTOLOGY: Final = Group("histology", {"sites": ("tnbc", "monuseg"), "crop": 96})
ULTRASOUND: Final = Group("ultrasound", {"sites": ("busbra", "busuclm"), "size": 128})

SITES: Final = ("tnbc", "monuseg", "busbra", "busuclm")
"""The development sites."""

COMMON: Final[Changes] = {
    "network": "unet",
    "width": 16,
    "norm": "group",
    "in_channels": 3,
    "augment": True,
    "precision": "amp",
    "rounds": 30,
    "steps_per_round": 20,
    "evaluate_every": 3,
    "batch_size": 8,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 1e-4,
    "method": {
        "pooling": "map",
        "mask_pooling": "max",
        "bound": "none",
        "form": "paper",
        "eps": 1e-6,
    },
    "alpha": {"mode": "dual", "maximum": 0.01, "rate": 0.004, "margin": 0.5, "value": 0.01},
}
"""600 steps at each site; 18 rounds of phase 1 and 12 of phase 2. Everything that matters is said
here, so that a trial stays what it was when a default of the library changes."""

METHODS: Final[Mapping[str, Changes]] = {
    "fedavg": {"strategy": "fedavg", "loss": "seg"},
    "fd": {"strategy": "fedavg", "loss": "fd"},
    "fd+exch": {"strategy": "fdfed", "loss": "fd+exch", "method": {"form": "paper"}},
    "fd+ratio": {"strategy": "fdfed", "loss": "fd+exch", "method": {"form": "ratio"}},
    "fd+gap": {"strategy": "fdfed", "loss": "fd+exch", "method": {"form": "gap"}},
}

_SHARED: Final[Mapping[str, Changes]] = {
    "lr=3e-3": {"learning_rate": 3e-3},
    "norm=batch": {"norm": "batch"},
}
_SCREEN_SEG: Final[Mapping[str, Changes]] = {
    **_SHARED,
    "lr=3e-4": {"learning_rate": 3e-4},
    "lr=2e-3": {"learning_rate": 2e-3},
    "decay=1e-2": {"weight_decay": 1e-2},
    "decay=0": {"weight_decay": 0.0},
    "lr=3e-3 decay=1e-2": {"learning_rate": 3e-3, "weight_decay": 1e-2},
}
_SCREEN_FD: Final[Mapping[str, Changes]] = {
    **_SHARED,
    "bound=normalise": {"method": {"bound": "normalise"}},
    "alpha<=0.1": {"alpha": {"maximum": 0.1, "rate": 0.04}},
    "alpha=ramp": {"alpha": {"mode": "ramp"}},
    "alpha=fixed": {"alpha": {"mode": "fixed"}},
    "pooling=sum": {"method": {"pooling": "sum"}},
}
_SCHEDULE: Final[Mapping[str, Changes]] = {
    # α moves once a round, so a rate per round becomes the same rate per step.
    "steps=1": {
        "steps_per_round": 1,
        "rounds": 600,
        "evaluate_every": 60,
        "alpha": {"rate": 0.0002},
    },
    "steps=5": {
        "steps_per_round": 5,
        "rounds": 120,
        "evaluate_every": 12,
        "alpha": {"rate": 0.001},
    },
    "batch=4": {"batch_size": 4},
    "batch=16": {"batch_size": 16},
}
"""Five steps of eight crops are about an epoch of the histology sites."""

TRIALS_PER_METHOD: Final = 1 + len(_SCREEN_FD) + len(_SCHEDULE)
"""Configurations of each method that were tried, its base included."""

Results = Mapping[str, TrialResult]


def configurations(method: str) -> dict[str, Changes]:
    """The method's configurations of stage 2 and 3, by name."""
    if method in REFERENCES:
        return {BASE: {}}
    screen = _SCREEN_SEG if METHODS[method]["loss"] == "seg" else _SCREEN_FD
    return {BASE: {}, **screen}


def agenda(results: Results) -> list[Trial]:
    """What the study asks for, in order; ends where a result is needed that is not there yet."""
    trials: list[Trial] = []
    for stage in _stages(results):
        trials += stage
    return trials


def stages(results: Results) -> dict[str, list[Trial]]:
    """The trials of each stage that can be named so far, for tables."""
    names = (
        "histology base, one fold",
        "histology plateau",
        "histology base",
        "ultrasound plateau",
        "ultrasound base, one fold",
        "references",
        "histology screen",
        "ultrasound base",
        "histology second fold",
        "histology third fold",
        "histology schedule",
        "histology schedule, all folds",
        "histology finals",
        "ultrasound finals",
    )
    return dict(zip(names, _stages(results), strict=False))


def _stages(results: Results) -> Iterator[list[Trial]]:
    yield _base(HISTOLOGY, (0,))
    yield _plateau(HISTOLOGY)
    yield _base(HISTOLOGY, range(FOLDS))
    yield _plateau(ULTRASOUND)
    yield _base(ULTRASOUND, (0,))
    references = [(RESTART, 1), (RESTART, 2), ("pooled", 0), (ALGORITHM_1, 0)]
    yield [
        trial(group, method, BASE, fold=fold)
        for group in (HISTOLOGY, ULTRASOUND)
        for method, fold in references
    ]
    screen = [
        trial(HISTOLOGY, method, config, fold=0)
        for row in zip(*map(configurations, METHODS), strict=True)
        for method, config in zip(METHODS, row, strict=True)
    ]
    yield screen
    yield _base(ULTRASOUND, range(FOLDS))
    if not _complete(screen, results):
        return
    kept: dict[str, list[str]] = {method: list(configurations(method)) for method in METHODS}
    for fold, keep in ((1, 4), (2, 2)):
        kept = {
            m: best_half({c: _scores(results, m, c, range(fold)) for c in kept[m]}, keep=keep)
            for m in METHODS
        }
        stage = [trial(HISTOLOGY, m, kept[m][i], fold=fold) for i in range(keep) for m in METHODS]
        yield stage
        if not _complete(stage, results):
            return
    winners = {
        m: best_half({c: _scores(results, m, c, range(FOLDS)) for c in kept[m]}, keep=1)[0]
        for m in METHODS
    }
    schedule = [
        trial(HISTOLOGY, m, _joined(winners[m], s), fold=0) for s in _SCHEDULE for m in METHODS
    ]
    yield schedule
    if not _complete(schedule, results):
        return
    rivals = {
        m: best_half(
            {c: _scores(results, m, c, (0,)) for c in (_joined(winners[m], s) for s in _SCHEDULE)},
            keep=1,
        )[0]
        for m in METHODS
    }
    stage = [trial(HISTOLOGY, m, rivals[m], fold=f) for f in range(1, FOLDS) for m in METHODS]
    yield stage
    if not _complete(stage, results):
        return
    finalists = {
        m: best_half(
            {c: _scores(results, m, c, range(FOLDS)) for c in (winners[m], rivals[m])}, keep=1
        )[0]
        for m in METHODS
    }
    for group in (HISTOLOGY, ULTRASOUND):
        yield [
            final(group, m, finalists[m], fold=f, seed=s)
            for s in range(SEEDS)
            for f in range(FOLDS)
            for m in METHODS
        ]


def trial(group: Group, method: str, config: str, *, fold: int, seed: int = 0) -> Trial:
    """One trial of the study; `config` is the name of a configuration, or several joined by `+`."""
    changes = METHODS.get(method) or REFERENCES[method]
    known = {**configurations(method), **_SCHEDULE}
    for part in config.split(" + "):
        changes = merged(changes, known[part])
    values = merged(merged(COMMON, group.changes), changes)
    split = {"held_out": DRAW, "fold": fold, "folds": FOLDS}
    plan = parse(RunPlan, {**values, "seed": seed, "split": split}, source="the study")
    return Trial(group.name, method, config, plan)


def final(group: Group, method: str, config: str, *, fold: int, seed: int) -> Trial:
    """A trial of the finals: the same, with `FINAL_STEPS` steps at each site."""
    short = trial(group, method, config, fold=fold, seed=seed)
    plan = short.plan.model_copy(update={"rounds": FINAL_STEPS // short.plan.steps_per_round})
    return Trial(group.name, method, FINAL + config, plan)


def _plateau(group: Group) -> list[Trial]:
    return [trial(group, method, BASE, fold=0) for method in ("local", RESTART)]


def _base(group: Group, folds: Sequence[int]) -> list[Trial]:
    return [trial(group, method, BASE, fold=fold) for fold in folds for method in METHODS]


def _complete(trials: Sequence[Trial], results: Results) -> bool:
    return all(trial.name in results for trial in trials)


def _scores(results: Results, method: str, config: str, folds: Sequence[int]) -> list[float]:
    """Scores of a histology configuration on those folds, seed 0; a diverged run scores zero."""
    names = (trial(HISTOLOGY, method, config, fold=fold).name for fold in folds)
    return [results[name].score or 0.0 for name in names]


def _joined(winner: str, schedule: str) -> str:
    return schedule if winner == BASE else f"{winner} + {schedule}"

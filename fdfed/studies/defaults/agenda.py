"""The study that picks the library's defaults: which trials it asks for, in which order.

Every method gets the same configurations in number (`TRIALS_PER_METHOD`), so none wins by having
been tuned more. Stages, each of which needs the results of those before it:

1. base      every method in its base configuration, on one fold
2. plateau   local training: does the setting reach the Dice that the study asks of it? And the
             restart between the phases alone: how much of a lead is the loss's?
3. screen    every method's other configurations, on one fold
4. halving   the best two on the other folds
5. variants  of L_fd within sites and of the best cross-site form: do they gain where or when they
             are trained otherwise?
6. finals    the winners of federated averaging, of L_fd within sites and of the best cross-site
             form, and L_fd in the configuration of the form: fresh seeds on every fold; the
             restart and the paper's method with the first of these seeds
7. references  pooled training
8. finals    likewise on ultrasound

Ultrasound has only finals, with the configurations that histology chose: it shows whether the
choice carries over to another modality.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fdfed.config import RunPlan, parse
from fdfed.studies.halving import best_half
from fdfed.studies.held_out import DRAW
from fdfed.studies.merging import Changes, merged
from fdfed.studies.trials import ALGORITHM_1, Trial, TrialResult

FOLDS: Final = 3
KEPT: Final = 2
"""Configurations of a method that run on every fold."""
CHOOSING_SEED: Final = 0
BASE: Final = "base"
FINAL: Final = "final: "
"""Begins the name of a configuration in the finals, whose seeds nothing was chosen by."""
RESTART: Final = "restart"
PAPER: Final = "paper"
REFERENCES: Final[Mapping[str, Changes]] = {
    "local": {"strategy": "local", "loss": "seg"},
    # Phase 2 with α = 0: what its fresh start from the best round does without any new loss.
    RESTART: {
        "strategy": "fedavg",
        "loss": "fd",
        "alpha": {"mode": "fixed", "value": 0.0},
    },
    # The preset of that name, said in full.
    PAPER: {
        "strategy": "fdfed",
        "loss": "fd+exch",
        "method": {"pooling": "sum", "mask_pooling": "max", "bound": "none", "form": "paper"},
        "alpha": {"mode": "paper"},
    },
    "pooled": {"strategy": "pooled", "loss": "seg"},
    # Its loss is not one of a run plan; the plan's says the phases, the method's the prototypes.
    ALGORITHM_1: {"strategy": "pooled", "loss": "fd"},
}
"""Not chosen from: each site alone, federated averaging with the restart between the phases, the
method as the paper has it, and all images in one place, also by the paper's Algorithm 1."""


@dataclass(frozen=True, slots=True)
class Group:
    """Sites of one modality, and how their images are trained on."""

    name: str
    changes: Changes
    final_seeds: tuple[int, ...]
    control_seeds: tuple[int, ...]
    """Those of the final seeds with which the restart and the paper's method run."""


HISTOLOGY: Final = Group(
    "histology",
    {"sites": ("tnbc", "monuseg"), "crop": 96},
    final_seeds=(1, 2, 3, 4, 5),
    control_seeds=(1, 2),
)
ULTRASOUND: Final = Group(
    "ultrasound",
    {"sites": ("busbra", "busuclm"), "size": 96},
    final_seeds=(1, 2),
    control_seeds=(1,),
)

SITES: Final = ("tnbc", "monuseg", "busbra", "busuclm")
"""The development sites."""

COMMON: Final[Changes] = {
    "network": "unet",
    "width": 8,
    "norm": "group",
    "in_channels": 3,
    "augment": True,
    "precision": "fp32",
    "rounds": 20,
    "steps_per_round": 20,
    "evaluate_every": 2,
    "batch_size": 8,
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "learning_rate_schedule": "poly",
    "weight_decay": 1e-4,
    "warm_start": True,
    "phase_2_start": "best",
    "method": {
        "pooling": "map",
        "mask_pooling": "max",
        "bound": "none",
        "form": "paper",
        "eps": 1e-6,
    },
    "alpha": {"mode": "dual", "maximum": 0.01, "rate": 0.004, "margin": 0.5, "value": 0.01},
}
"""400 steps at each site; 12 rounds of phase 1 and 8 of phase 2. Everything that matters is said
here, so that a trial stays what it was when a default of the library changes."""

METHODS: Final[Mapping[str, Changes]] = {
    "fedavg": {"strategy": "fedavg", "loss": "seg"},
    "fd": {"strategy": "fedavg", "loss": "fd"},
    "fd+exch": {"strategy": "fdfed", "loss": "fd+exch", "method": {"form": "paper"}},
    "fd+ratio": {"strategy": "fdfed", "loss": "fd+exch", "method": {"form": "ratio"}},
    "fd+gap": {"strategy": "fdfed", "loss": "fd+exch", "method": {"form": "gap"}},
}
CROSS_SITE: Final = ("fd+exch", "fd+ratio", "fd+gap")

_SHARED: Final[Mapping[str, Changes]] = {
    "lr=1e-3": {"learning_rate": 1e-3},
    "norm=batch": {"norm": "batch"},
    # About an epoch of the histology sites. α moves once a round: the same rate per step.
    "steps=5": {
        "steps_per_round": 5,
        "rounds": 80,
        "evaluate_every": 8,
        "alpha": {"rate": 0.001},
    },
}
_SCREEN_SEG: Final[Mapping[str, Changes]] = {
    **_SHARED,
    "lr=6e-3": {"learning_rate": 6e-3},
    "decay=1e-2": {"weight_decay": 1e-2},
    "decay=0": {"weight_decay": 0.0},
}
_SCREEN_FD: Final[Mapping[str, Changes]] = {
    **_SHARED,
    "bound=normalise": {"method": {"bound": "normalise"}},
    "alpha<=0.1": {"alpha": {"maximum": 0.1, "rate": 0.04}},
    "alpha=fixed": {"alpha": {"mode": "fixed"}},
}
VARIANTS: Final[Mapping[str, Changes]] = {
    "taps=decoder": {"alpha": {"taps": ("Dec1", "Dec2", "Dec3", "Dec4")}},
    "taps=encoder": {"alpha": {"taps": ("Enc1", "Enc2", "Enc3", "Enc4", "Bot")}},
    "no warm start": {"warm_start": False},
    "no restart": {"phase_2_start": "last"},
}
"""What L_fd and the best cross-site form are tried with beside their configuration, on every fold:
twelve trials each."""
AND: Final = " + "
"""Joins the names of a configuration and a variant."""
TRIALS_PER_METHOD: Final = 1 + len(_SCREEN_FD)
"""Configurations of each method that were tried, its base included."""

Results = Mapping[str, TrialResult]


def configurations(method: str) -> dict[str, Changes]:
    """The method's configurations, by name."""
    changes = METHODS.get(method) or REFERENCES[method]
    return {BASE: {}, **(_SCREEN_SEG if changes["loss"] == "seg" else _SCREEN_FD)}


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
        "plateau",
        "histology screen",
        "histology, other folds",
        "histology, variants",
        "histology finals",
        "references",
        "ultrasound finals",
    )
    return dict(zip(names, _stages(results), strict=False))


def _stages(results: Results) -> Iterator[list[Trial]]:
    yield [trial(HISTOLOGY, method, BASE, fold=0) for method in METHODS]
    yield [trial(HISTOLOGY, method, BASE, fold=0) for method in ("local", RESTART)]
    screen = [
        trial(HISTOLOGY, method, config, fold=0)
        for row in zip(*map(configurations, METHODS), strict=True)
        for method, config in zip(METHODS, row, strict=True)
    ]
    yield screen
    if not _complete(screen, results):
        return
    kept = {
        method: _best(method, list(configurations(method)), (0,), results) for method in METHODS
    }
    stage = [
        trial(HISTOLOGY, method, kept[method][place], fold=fold)
        for place in range(KEPT)
        for fold in range(1, FOLDS)
        for method in METHODS
    ]
    yield stage
    if not _complete(stage, results):
        return
    varied = _varied(kept, results)
    stage = [
        trial(HISTOLOGY, method, config + AND + variant, fold=fold)
        for variant in VARIANTS
        for fold in range(FOLDS)
        for method, config in varied.items()
    ]
    yield stage
    if not _complete(stage, results):
        return
    finalists = choose_finalists(kept, results)
    yield _finals(HISTOLOGY, finalists)
    yield [trial(HISTOLOGY, method, BASE, fold=0) for method in ("pooled", ALGORITHM_1)]
    yield _finals(ULTRASOUND, finalists)


def _finals(group: Group, finalists: Sequence[tuple[str, str]]) -> list[Trial]:
    return [
        final(group, method, config, fold=fold, seed=seed)
        for seed in group.final_seeds
        for fold in range(FOLDS)
        for method, config in finalists
        if method in METHODS or seed in group.control_seeds
    ]


def choose_finalists(kept: Mapping[str, Sequence[str]], results: Results) -> list[tuple[str, str]]:
    """The methods that go to the finals, each with its configuration.

    L_fd and the best of the cross-site forms go in their best variants, and L_fd also in that of
    the form, which differs from it in the cross-site term alone. The restart goes with the
    configuration of `fd` without a variant, whose control it is, and the paper's method as it is.

    Args:
        kept: each method's configurations that ran on every fold.
    """
    folds = range(FOLDS)
    varied = _varied(kept, results)
    chosen = [("fedavg", _best("fedavg", kept["fedavg"], folds, results)[0])]
    for method, config in varied.items():
        tried = [config, *(config + AND + variant for variant in VARIANTS)]
        chosen.append((method, _best(method, tried, folds, results)[0]))
    without = ("fd", chosen[-1][1])
    if without not in chosen:
        chosen.append(without)
    return [*chosen, (RESTART, varied["fd"]), (PAPER, BASE)]


def _varied(kept: Mapping[str, Sequence[str]], results: Results) -> dict[str, str]:
    """`fd` and the best cross-site form, each with its best configuration."""
    folds = range(FOLDS)
    winners = {m: _best(m, kept[m], folds, results)[0] for m in ("fd", *CROSS_SITE)}
    scores = {form: _scores(results, form, winners[form], folds) for form in CROSS_SITE}
    [form] = best_half(scores, keep=1)
    return {method: winners[method] for method in ("fd", form)}


def trial(group: Group, method: str, config: str, *, fold: int, seed: int = CHOOSING_SEED) -> Trial:
    """One trial of the study; `config` is the name of one of the method's configurations, or of one
    `AND` a variant."""
    name, _, variant = config.partition(AND)
    values = merged(merged(COMMON, group.changes), configurations(method)[name])
    values = merged(values, VARIANTS[variant] if variant else {})
    # The method last: whatever its configuration does with α, the restart leaves it at 0.
    values = merged(values, METHODS.get(method) or REFERENCES[method])
    split = {"held_out": DRAW, "fold": fold, "folds": FOLDS}
    plan = parse(RunPlan, {**values, "seed": seed, "split": split}, source="the study")
    return Trial(group.name, method, config, plan, diagnosed=config == BASE)


def final(group: Group, method: str, config: str, *, fold: int, seed: int) -> Trial:
    """A trial of the finals."""
    made = trial(group, method, config, fold=fold, seed=seed)
    return replace(made, config=FINAL + config, diagnosed=False)


def _complete(trials: Sequence[Trial], results: Results) -> bool:
    return all(trial.name in results for trial in trials)


def _best(method: str, configs: Sequence[str], folds: Sequence[int], results: Results) -> list[str]:
    """The `KEPT` best of a method's configurations on those folds, best first."""
    scores = {config: _scores(results, method, config, folds) for config in configs}
    return best_half(scores, keep=KEPT)


def _scores(results: Results, method: str, config: str, folds: Sequence[int]) -> list[float]:
    """Scores of a histology configuration on those folds; a diverged run scores zero."""
    names = (trial(HISTOLOGY, method, config, fold=fold).name for fold in folds)
    return [results[name].score or 0.0 for name in names]

"""The study of bounded staleness: what late replies cost, and what waiting they save.

Two sites of histology. In every trial a reply takes D steps, and the plan lets it be D steps late,
for D = 0 (lockstep) to 5: no step waits, once a round has begun, and every reply is as old as the
plan allows. `no exchange` is the same training without the cross-site term: what a site has when
every reply is too old.

The term has a fixed α, ten times the default's largest, so that an effect of its age could show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fdfed.config import RunPlan, parse
from fdfed.exchange import ModelledDelay
from fdfed.studies.held_out import DRAW
from fdfed.studies.trials import Trial, TrialResult

FOLDS: Final = 3
SEEDS: Final = 2
BOUNDS: Final = (0, 1, 2, 3, 5)
"""d, in steps."""
DELAYS: Final = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)
"""How long a reply takes in the table of waits, in steps."""
GROUP: Final = "histology"
SITES: Final = ("tnbc", "monuseg")
EXCHANGE: Final = "fd+exch"
NO_EXCHANGE: Final = "no exchange"
LOCKSTEP: Final = "d=0"

_COMMON: Final = {
    "sites": SITES,
    "network": "unet",
    "width": 8,
    "norm": "group",
    "in_channels": 3,
    "size": 128,
    "augment": True,
    "precision": "fp32",
    "rounds": 14,
    "steps_per_round": 20,
    "evaluate_every": 2,
    "batch_size": 8,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "learning_rate_schedule": "constant",
    "weight_decay": 1e-4,
    "warm_start": True,
    "phase_2_start": "best",
    "method": {"bound": "none"},
    "alpha": {"mode": "fixed", "value": 0.1, "maximum": 0.1},
}
"""280 steps at each site: 8 rounds of phase 1, which all trials of a fold and seed share, and 6 of
phase 2."""


def agenda(_results: Mapping[str, TrialResult]) -> list[Trial]:
    """All trials: every configuration on a fold before the next fold, all folds before the next
    seed, so that a study that is cut is still a fair one."""
    return [
        trial(name, fold=fold, seed=seed)
        for seed in range(SEEDS)
        for fold in range(FOLDS)
        for name in (NO_EXCHANGE, *map(config_of, BOUNDS))
    ]


def config_of(bound: int) -> str:
    """The name of the configuration with d = `bound`."""
    return f"d={bound}"


def trial(config: str, *, fold: int, seed: int) -> Trial:
    """One trial; `config` is NO_EXCHANGE or a `config_of`."""
    if config == NO_EXCHANGE:
        own: dict[str, object] = {"strategy": "fedavg", "loss": "fd"}
    else:
        bound = int(config.removeprefix("d="))
        own = {
            "strategy": "fdfed",
            "loss": EXCHANGE,
            "exchange": {"max_staleness": bound, "delay_steps": float(bound)},
        }
    split = {"held_out": DRAW, "fold": fold, "folds": FOLDS}
    plan = parse(RunPlan, {**_COMMON, **own, "seed": seed, "split": split}, source="the study")
    return Trial(GROUP, "fd" if config == NO_EXCHANGE else EXCHANGE, config, plan)


def waiting(bound: int, delay_steps: float, *, steps: int) -> tuple[float, float]:
    """Of a round of `steps` steps: the share of time in which a site waits, and the mean age of
    the replies that it uses, by `ModelledDelay`."""
    clock = ModelledDelay(delay_steps=delay_steps, max_staleness=bound)
    ages = [clock.next_age() for _ in range(steps)]
    return clock.waited / (clock.waited + steps), sum(ages) / steps

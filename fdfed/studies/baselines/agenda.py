"""Which trials the comparison asks for, stage by stage, in the order of the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from fdfed.config import RunPlan, parse
from fdfed.errors import InvalidInput
from fdfed.studies.baselines.configuration import BASE, Comparison
from fdfed.studies.held_out import DRAW
from fdfed.studies.trials import Trial, TrialResult

Stage = Literal["tuning", "rehearsal", "confirmatory"]

REHEARSAL: Final = "rehearsal-1"
"""Name of the draw of test patients, among those that are not confirmatory, of the rehearsal."""

SPLITS: Final[Mapping[Stage, Mapping[str, Any]]] = {
    "tuning": {"held_out": DRAW, "fold": 0, "folds": 3},
    "rehearsal": {"set_aside": DRAW, "held_out": REHEARSAL},
    "confirmatory": {"held_out": DRAW},
}
"""The split of every stage, whatever the study."""


def agenda(stage: Stage, comparison: Comparison) -> list[Trial]:
    """All trials of the stage, the first to be run first.

    `tuning`: every method's base, then one candidate of every method before the next of any, on a
    validation fold of the first group; no test image is read. The others: the primary methods
    first, each seed of all of them in all groups before the next seed; then the rest likewise.

    Raises:
        InvalidInput: if the confirmatory stage is asked for and the configuration is not frozen.
    """
    if stage == "tuning":
        return _tuning(comparison)
    check_frozen(stage, comparison)
    return [
        trial(stage, comparison, group, method, seed=seed)
        for primary in (True, False)
        for seed in range(comparison.seeds.primary if primary else comparison.seeds.others)
        for method in comparison.methods
        if comparison.methods[method].primary is primary
        for group in comparison.groups
    ]


def check_frozen(stage: Stage, comparison: Comparison) -> None:
    """Nothing, if the stage may be run.

    Raises:
        InvalidInput: if it is the confirmatory one and the configuration is not frozen.
    """
    if stage == "confirmatory" and not comparison.frozen:
        raise InvalidInput(
            "the confirmatory patients are opened once the configuration is frozen, and it says "
            f"frozen = false ({comparison.awaited or 'no reason given'}); use --stage rehearsal"
        )


def _tuning(comparison: Comparison) -> list[Trial]:
    group = next(iter(comparison.groups))
    tuned = [name for name, method in comparison.methods.items() if method.is_tuned]
    rows = zip(*([BASE, *comparison.methods[name].candidates] for name in tuned), strict=True)
    return [
        trial("tuning", comparison, group, name, seed=0, candidate=candidate)
        for row in rows
        for name, candidate in zip(tuned, row, strict=True)
    ]


def trial(
    stage: Stage,
    comparison: Comparison,
    group: str,
    method: str,
    *,
    seed: int,
    candidate: str | None = None,
) -> Trial:
    """One trial; `candidate` None is the method's chosen one."""
    values = comparison.values(group, method, candidate)
    plan = parse(
        RunPlan,
        {**values, "seed": seed, "split": dict(SPLITS[stage]), "min_count": 1},
        source="the study",
    )
    row = comparison.methods[method]
    return Trial(
        group,
        method,
        candidate or row.chosen,
        plan,
        trainer=row.trainer,
        parameters=comparison.parameters(method, candidate),
        opens_test=stage != "tuning",
    )


def done(
    stage: Stage, comparison: Comparison, results: Mapping[str, TrialResult]
) -> dict[tuple[str, str], dict[int, TrialResult]]:
    """The finished trials of the stage, by (group, method) and seed; of tuning none."""
    found: dict[tuple[str, str], dict[int, TrialResult]] = {}
    for group in comparison.groups:
        for method in comparison.methods:
            seeds = found.setdefault((group, method), {})
            for seed in range(comparison.seeds_of(method)):
                name = trial(stage, comparison, group, method, seed=seed).name
                if name in results:
                    seeds[seed] = results[name]
    return found

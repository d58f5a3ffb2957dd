"""What a study of variants is: its rows, what each is set against, and the trials they ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fdfed.config import RunPlan, parse
from fdfed.studies.baselines.agenda import SPLITS, Stage
from fdfed.studies.baselines.configuration import Comparison
from fdfed.studies.five_losses import Recipe
from fdfed.studies.merging import merged
from fdfed.studies.trials import Trial, TrialResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One row."""

    name: str
    recipe: Recipe
    """Of the comparison's configuration, where it starts from."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of the run plan."""
    against: str | None = None
    """The row that it is compared with, seed by seed and patient by patient."""
    sites: tuple[str, ...] = ()
    """Instead of the group's."""
    evaluate: tuple[str, ...] = ()
    """Sites that it is tested on and not trained on; the row then scores these alone."""
    groups: tuple[str, ...] = ()
    """Where it is trained; empty: in all groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the paper says, to stand beside ours."""

    what: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A study of variants."""

    name: str
    title: str
    variants: tuple[Variant, ...]
    seeds: int = 3
    development_only: bool = False
    """Whether the confirmatory patients stay aside at every stage."""
    published: tuple[Published, ...] = ()
    note: str = ""

    def agenda(self, stage: Stage, comparison: Comparison) -> list[Trial]:
        """All trials, each seed of all of them before the next."""
        return [
            self.trial(stage, comparison, group, variant, seed=seed)
            for seed in range(self.seeds)
            for group in comparison.groups
            for variant in self.of_group(group)
        ]

    def of_group(self, group: str) -> tuple[Variant, ...]:
        """The rows of a group."""
        return tuple(v for v in self.variants if not v.groups or group in v.groups)

    def trial(
        self, stage: Stage, comparison: Comparison, group: str, variant: Variant, *, seed: int
    ) -> Trial:
        """One trial. A variant that changes nothing is the comparison's own trial, and is run once
        where both studies have one folder."""
        method, candidate = variant.recipe.method, variant.recipe.candidate
        values = merged(comparison.values(group, method, candidate), variant.changes)
        if variant.sites:
            values["sites"] = variant.sites
        split = SPLITS["rehearsal" if self.development_only else stage]
        own = {"seed": seed, "split": dict(split), "min_count": 1}
        row = comparison.methods[method]
        return Trial(
            group,
            method,
            variant.name,
            parse(RunPlan, {**values, **own}, source=f"the study {self.name}"),
            trainer=row.trainer,
            parameters=comparison.parameters(method, candidate),
            opens_test=True,
            evaluate=variant.evaluate,
        )

    def finished(
        self, stage: Stage, comparison: Comparison, results: Mapping[str, TrialResult]
    ) -> dict[tuple[str, str], dict[int, TrialResult]]:
        """The finished trials by (group, variant) and seed."""
        found: dict[tuple[str, str], dict[int, TrialResult]] = {}
        for group in comparison.groups:
            for variant in self.of_group(group):
                names = {
                    seed: self.trial(stage, comparison, group, variant, seed=seed).name
                    for seed in range(self.seeds)
                }
                found[group, variant.name] = {
                    s: results[n] for s, n in names.items() if n in results
                }
        return found


def named(variants: Sequence[Variant], name: str) -> Variant:
    """The variant of that name."""
    return next(variant for variant in variants if variant.name == name)

"""Scores of variants, and their leads over what they are set against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fdfed.evaluation.significance import Comparison as Compared
from fdfed.evaluation.significance import compare
from fdfed.studies.baselines.agenda import Stage
from fdfed.studies.baselines.analysis import differences, site_means
from fdfed.studies.baselines.configuration import Comparison
from fdfed.studies.trials import TrialResult
from fdfed.studies.variants.design import Design, Variant, named

BySeed = dict[int, TrialResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variant in one group; Dice and IoU are fractions."""

    group: str
    variant: str
    seeds: int
    asked: int
    dice: Mapping[str, float] = field(default_factory=dict)
    iou: Mapping[str, float] = field(default_factory=dict)
    mean_dice: float | None = None
    against: str | None = None
    lead: Compared | None = None
    """Over `against`; exploratory."""


def analyse(
    design: Design, stage: Stage, comparison: Comparison, results: Mapping[str, TrialResult]
) -> list[Row]:
    """Every row, empty where nothing is finished."""
    finished = design.finished(stage, comparison, results)
    rows = []
    for (group, name), trials in finished.items():
        variant = named(design.of_group(group), name)
        own = scored(variant, trials)
        dice, iou = (site_means(own, own, metric) for metric in ("dice", "iou"))
        lead = None
        if variant.against is not None:
            other = named(design.of_group(group), variant.against)
            values = differences([(own, scored(other, finished[group, other.name]))])
            lead = None if values is None else compare(values)
        rows.append(
            Row(
                group=group,
                variant=name,
                seeds=len(trials),
                asked=design.seeds,
                dice=dice,
                iou=iou,
                mean_dice=sum(dice.values()) / len(dice) if dice else None,
                against=variant.against,
                lead=lead,
            )
        )
    return rows


def scored(variant: Variant, trials: Mapping[int, TrialResult]) -> BySeed:
    """The trials with the images that the row is about: of the unseen sites, where it has some."""
    if not variant.evaluate:
        return dict(trials)
    return {
        seed: replace(r, images=[image for image in r.images if image.site in variant.evaluate])
        for seed, r in trials.items()
    }

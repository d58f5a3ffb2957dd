"""What the trials of a stage say: patients' scores, leads, the two hypotheses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fdfed.evaluation.significance import Comparison as Compared
from fdfed.evaluation.significance import Differences, compare, detectable_effect, holm
from fdfed.studies.baselines.configuration import Comparison, Role
from fdfed.studies.scored_images import ScoredImage
from fdfed.studies.trials import TrialResult

Metric = Literal["dice", "iou"]
BySeed = Mapping[int, TrialResult]
Done = Mapping[tuple[str, str], BySeed]
"""Finished trials by (group, method) and seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method in one group. Scores are fractions, or None where no seed is finished."""

    group: str
    method: str
    role: Role
    primary: bool
    seeds: int
    asked: int
    dice: Mapping[str, float] = field(default_factory=dict)
    """By site: seeds averaged first, then patients."""
    iou: Mapping[str, float] = field(default_factory=dict)
    mean_dice: float | None = None
    """Mean over sites."""
    worst_site: float | None = None
    gain: float | None = None
    """Mean over sites of Dice less the better of `local` and `pooled`, on the seeds that all three
    have."""
    recovered: float | None = None
    """How far the mean over sites is on the way from `local` (0) to `pooled` (1), on the same
    seeds; None where pooled training is not better, so that there is no way."""
    bytes: float | None = None
    """Up and down, all sites and rounds, mean over seeds; None of pooled training, where images
    travel instead."""
    seconds: float | None = None
    """By the clock, mean over seeds; a run shares the machine with others."""
    alpha: Mapping[str, float] = field(default_factory=dict)
    """By tap, of the last round, mean over seeds; empty where the method has none."""
    epsilon: float | None = None
    """None: no differential privacy, and nothing is claimed."""
    diverged: int = 0
    unscored: int = 0
    """Test images without annotated foreground, over all seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """How much higher our method scores than another, over all sites of some groups."""

    over: str
    role: Role
    groups: tuple[str, ...]
    metric: Metric
    compared: Compared | None
    """None where the two have no seed in common in every group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """One of the two primary hypotheses."""

    name: str
    claim: str
    p: float | None
    """One-sided; of H2 the largest over its baselines. None while nothing can be compared."""
    adjusted: float | None
    """By Holm over both."""
    complete: bool
    """Whether every cell that it needs is there, with all seeds. If not, p of H2 is a lower bound,
    and neither is confirmed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Everything that tables and figures are made of."""

    rows: tuple[Row, ...]
    leads: tuple[Lead, ...]
    """Over all groups together first, then group by group (exploratory)."""
    hypotheses: tuple[Hypothesis, ...]
    detectable: float | None
    """The effect that H1's test finds with 80 % power, by the patients' differences as they are."""

    def lead(self, over: str, metric: Metric = "dice") -> Compared | None:
        """The lead over a method in all groups together."""
        return next(
            entry.compared
            for entry in self.leads
            if (entry.over, entry.metric) == (over, metric) and len(entry.groups) == self._groups
        )

    @property
    def _groups(self) -> int:
        return max(len(entry.groups) for entry in self.leads)


def analyse(comparison: Comparison, done: Done) -> Analysis:
    """The whole analysis of the protocol, of what is finished."""
    groups = tuple(comparison.groups)
    rows = tuple(
        _row(comparison, done, group, method) for group in groups for method in comparison.methods
    )
    others = [name for name in comparison.methods if name != comparison.ours]
    scopes = [groups, *((group,) for group in groups if len(groups) > 1)]
    leads = tuple(
        Lead(
            over=other,
            role=comparison.methods[other].role,
            groups=scope,
            metric=metric,
            compared=_compared(comparison, done, scope, other, metric),
        )
        for scope in scopes
        for metric in ("dice", "iou")
        for other in others
    )
    whole = {e.over: e.compared for e in leads if e.groups == groups and e.metric == "dice"}
    h1 = whole[comparison.without]
    return Analysis(
        rows=rows,
        leads=leads,
        hypotheses=_hypotheses(comparison, done, whole),
        detectable=_detectable(h1),
    )


def _compared(
    comparison: Comparison, done: Done, groups: Sequence[str], other: str, metric: Metric
) -> Compared | None:
    found = differences(
        [(done[group, comparison.ours], done[group, other]) for group in groups], metric=metric
    )
    return None if found is None else compare(found)


def differences(
    pairs: Iterable[tuple[BySeed, BySeed]], *, metric: Metric = "dice"
) -> Differences | None:
    """Ours less theirs by site, for the seeds that both have in every pair; None without any.

    Args:
        pairs: our trials and theirs, one pair for each group of sites.
    """
    known = list(pairs)
    seeds = sorted(set.intersection(*({*ours} & {*theirs} for ours, theirs in known)))
    if not seeds:
        return None
    found = {}
    for ours, theirs in known:
        scores = [
            [patient_scores(trials[seed].images, metric) for seed in seeds]
            for trials in (ours, theirs)
        ]
        for site in scores[0][0]:
            patients = sorted(scores[0][0][site])
            mine, other = (
                np.array([[by_site[site][patient] for patient in patients] for by_site in side])
                for side in scores
            )
            found[site] = mine - other
    return found


def patient_scores(images: Iterable[ScoredImage], metric: Metric) -> dict[str, dict[str, float]]:
    """The mean over each patient's scored images, by site and patient."""
    values: dict[str, dict[str, list[float]]] = {}
    for image in images:
        score: float | None = getattr(image, metric)
        if score is not None:
            values.setdefault(image.site, {}).setdefault(image.patient, []).append(score)
    return {
        site: {patient: math.fsum(v) / len(v) for patient, v in patients.items()}
        for site, patients in values.items()
    }


def site_means(trials: BySeed, seeds: Iterable[int], metric: Metric = "dice") -> dict[str, float]:
    """Each site's score: patients' means, averaged over seeds and then over patients."""
    by_seed = [patient_scores(trials[seed].images, metric) for seed in seeds]
    return {
        site: float(np.mean([[s[site][p] for p in by_seed[0][site]] for s in by_seed]))
        for site in (by_seed[0] if by_seed else ())
    }


def _row(comparison: Comparison, done: Done, group: str, method: str) -> Row:
    trials, row = done[group, method], comparison.methods[method]
    dice, iou = (site_means(trials, trials, metric) for metric in ("dice", "iou"))
    results = list(trials.values())
    return Row(
        group=group,
        method=method,
        role=row.role,
        primary=row.primary,
        seeds=len(trials),
        asked=comparison.seeds_of(method),
        dice=dice,
        iou=iou,
        mean_dice=_mean(dice.values()),
        worst_site=min(dice.values(), default=None),
        gain=_gain(done, group, method),
        recovered=_recovered(done, group, method),
        bytes=None
        if row.plan.get("strategy") == "pooled"
        else _mean(float(sum(result.bytes.values())) for result in results),
        seconds=_mean(result.whole_seconds for result in results),
        alpha=_alpha(results),
        diverged=sum(result.score is None for result in results),
        unscored=sum(image.dice is None for result in results for image in result.images),
    )


def _alpha(results: Sequence[TrialResult]) -> dict[str, float]:
    taps = dict.fromkeys(tap for result in results for tap in result.alpha)
    means = {
        tap: math.fsum(result.alpha.get(tap, 0.0) for result in results) / len(results)
        for tap in taps
    }
    return means if any(means.values()) else {}


def _gain(done: Done, group: str, method: str) -> float | None:
    own, *others = _beside_rivals(done, group, method)
    return _mean(own[site] - max(other[site] for other in others) for site in own)


def _recovered(done: Done, group: str, method: str) -> float | None:
    own, local, pooled = (_mean(s.values()) for s in _beside_rivals(done, group, method))
    if own is None or local is None or pooled is None or pooled <= local:
        return None
    return (own - local) / (pooled - local)


def _beside_rivals(done: Done, group: str, method: str) -> list[dict[str, float]]:
    """Each site's score under the method, `local` and `pooled`, on the seeds that all three have;
    without sites where there is none."""
    trials = [done.get((group, name), {}) for name in (method, "local", "pooled")]
    seeds = set.intersection(*({*entry} for entry in trials))
    return [site_means(entry, seeds) for entry in trials]


def _hypotheses(
    comparison: Comparison, done: Done, whole: Mapping[str, Compared | None]
) -> tuple[Hypothesis, ...]:
    baselines = comparison.of_role("baseline")
    needed = {"H1": (comparison.without,), "H2": baselines}
    claims = {
        "H1": f"{comparison.ours} has a higher Dice than {comparison.without}, the same training "
        "without its cross-site term",
        "H2": f"{comparison.ours} has a higher Dice than each of {len(baselines)} baselines",
    }
    p = {}
    for name, methods in needed.items():
        known = [found.p for method in methods if (found := whole[method]) is not None]
        if known:
            p[name] = max(known)
    adjusted = holm(p) if len(p) == len(needed) else {}
    return tuple(
        Hypothesis(
            name=name,
            claim=claims[name],
            p=p.get(name),
            adjusted=adjusted.get(name),
            complete=all(
                len(done[group, method]) == comparison.seeds_of(method)
                for group in comparison.groups
                for method in (comparison.ours, *methods)
            ),
        )
        for name, methods in needed.items()
    )


def _detectable(found: Compared | None) -> float | None:
    if found is None or any(math.isnan(value) for value in found.sd.values()):
        return None
    return detectable_effect(found.sd, found.patients)


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return math.fsum(known) / len(known) if known else None

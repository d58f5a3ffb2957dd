"""Does the order in which a predictor lists a base's candidates agree with what they brought?

A forecast compares numbers of different bases, each under its own model; a ranking only those of
one base, which is what somebody who must choose among candidates asks.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fdfed.advisor import Observation
from fdfed.advisor.calibration import PREDICTORS, Predictor

MIN_CANDIDATES: Final = 3
"""A base with fewer has no order worth the name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """One predictor's orders, over all bases. Changes are fractions, means over seeds."""

    predictor: Predictor
    rank: float
    """Spearman's correlation between being listed early and the change, mean over bases; a base
    whose candidates are all alike to the predictor counts as 0."""
    hits: int
    """Bases whose first candidate was the best one."""
    bases: int
    missed: float
    """Change by the best candidate less that by the first, mean over bases."""


def rankings(seen: Sequence[Observation]) -> list[Ranking]:
    """Every predictor's: the nearest candidate first; by share, the one with most images.

    None where no base has `MIN_CANDIDATES`.
    """
    of_base: dict[str, dict[str, list[Observation]]] = {}
    for entry in seen:
        of_base.setdefault(entry.base, {}).setdefault(entry.novel, []).append(entry)
    bases = [found for found in of_base.values() if len(found) >= MIN_CANDIDATES]
    return [_ranking(bases, predictor) for predictor in PREDICTORS] if bases else []


def _ranking(bases: Sequence[Mapping[str, Sequence[Observation]]], predictor: Predictor) -> Ranking:
    ranks, missed = [], []
    sign = 1 if predictor == "share" else -1
    for candidates in bases:
        early = [
            sign * statistics.fmean(getattr(entry, predictor) for entry in entries)
            for entries in candidates.values()
        ]
        changes = [
            statistics.fmean(entry.change for entry in entries) for entries in candidates.values()
        ]
        ranks.append(_spearman(early, changes))
        missed.append(max(changes) - changes[early.index(max(early))])
    return Ranking(
        predictor=predictor,
        rank=statistics.fmean(ranks),
        hits=sum(value == 0 for value in missed),
        bases=len(bases),
        missed=statistics.fmean(missed),
    )


def _spearman(x: Sequence[float], y: Sequence[float]) -> float:
    if len(set(x)) < 2 or len(set(y)) < 2:
        return 0.0
    from scipy import stats  # noqa: PLC0415  slow to import

    return float(stats.spearmanr(x, y).statistic)

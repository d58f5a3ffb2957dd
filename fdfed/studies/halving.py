"""Successive halving over replicates, and the means it compares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and spread of one configuration's scores, as fractions."""

    n: int
    mean: float
    sd: float
    """Sample standard deviation (divisor n - 1); NaN for a single score."""

    @classmethod
    def of(cls, scores: Sequence[float]) -> Spread:
        """The spread of one score or more."""
        n, mean = len(scores), math.fsum(scores) / len(scores)
        if n < 2:
            return cls(n, mean, math.nan)
        return cls(n, mean, math.sqrt(math.fsum((s - mean) ** 2 for s in scores) / (n - 1)))


def best_half(scores: Mapping[str, Sequence[float]], *, keep: int) -> list[str]:
    """The `keep` candidates with the highest mean score, best first; equal ones in their order.

    Successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943) gives every candidate a little
    of the budget and the better half more. Departure: the budget is the number of folds, not of
    steps, because all runs are compared at their plateau. A run that diverged has no score and
    counts as zero.

    Args:
        scores: by candidate, one entry for each fold run so far.
    """
    means = {name: Spread.of(list(values) or [0.0]).mean for name, values in scores.items()}
    return sorted(means, key=lambda name: -means[name])[:keep]


def paired_differences(
    ours: Mapping[tuple[int, int], float], theirs: Mapping[tuple[int, int], float]
) -> list[float]:
    """ours - theirs for every (fold, seed) that both have, in order."""
    return [ours[key] - theirs[key] for key in sorted(ours.keys() & theirs.keys())]

"""How well scores tell members from others: AUC, TPR at a small FPR, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdfed.studies.privacy.vectors import Array

FALSE_POSITIVES: Final = 0.01
"""The false-positive rate at which the true-positive rate is reported (Carlini et al. 2022,
arXiv:2112.03570: an attack that is right about a few patients is an attack)."""


def auc(members: NDArray[Any], others: NDArray[Any]) -> float:
    """P(a member scores higher than another) + ½ P(they tie), over all pairs: the area under the
    ROC curve (Mann & Whitney 1947); 0.5 is chance."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, side="left")
    not_above = np.searchsorted(ordered, members, side="right")
    return float((below + not_above).mean() / (2 * len(others)))


def tpr_at_fpr(
    members: NDArray[Any], others: NDArray[Any], *, fpr: float = FALSE_POSITIVES
) -> float:
    """The share of members above the lowest threshold that at most ⌊fpr · n⌋ of the n others
    pass; with fewer than 1/fpr others, none may."""
    allowed = int(fpr * len(others) + 1e-9)
    threshold = np.sort(others)[::-1][allowed]
    return float((members > threshold).mean())


def bootstrap_interval(
    statistic: Callable[[Array, Array], float],
    members: Array,
    others: Array,
    *,
    member_patients: Sequence[str],
    other_patients: Sequence[str],
    rng: np.random.Generator,
    draws: int = 1000,
) -> tuple[float, float]:
    """The 95 % percentile interval of `statistic(members, others)`.

    Whole patients are drawn, with replacement, on either side: images of one patient are alike,
    and drawing images would make the interval too narrow.
    """
    rows = _by_patient(member_patients), _by_patient(other_patients)
    values = [
        statistic(members[_drawn(rows[0], rng)], others[_drawn(rows[1], rng)]) for _ in range(draws)
    ]
    low, high = np.quantile(values, (0.025, 0.975)).tolist()
    return low, high


def _by_patient(patients: Sequence[str]) -> list[NDArray[np.intp]]:
    names = np.array(patients)
    return [np.flatnonzero(names == name) for name in sorted(set(patients))]


def _drawn(groups: list[NDArray[np.intp]], rng: np.random.Generator) -> NDArray[np.intp]:
    return np.concatenate([groups[k] for k in rng.integers(0, len(groups), len(groups))])

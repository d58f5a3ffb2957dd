"""Whether one method scores higher than another: paired tests in which the patient is the unit.

Differences come as an array `(seeds, patients)` for each site. Seeds are averaged first, then
patients, then sites, which weigh equally however many patients they have.
`docs/studies/protocol.md` says why, and what the studies compare.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from fdfed.errors import InvalidInput

CONFIDENCE: Final = 0.95
"""Of every interval."""
MOST_EXACT: Final = 65_536
"""Swaps up to which a permutation test goes through all of them."""
PERMUTATIONS: Final = 100_000
"""Random swaps beyond that."""
BOOTSTRAPS: Final = 10_000
_BLOCK: Final = 4096
"""Swaps that are in memory at a time."""

Differences = Mapping[str, Float64[ndarray, "seeds _"]]
"""By site, ours − theirs: a row for each seed and a column for each patient. All sites have the
same seeds, in the same order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How much higher one method scores than another, in the unit of the scores."""

    estimate: float
    low: float
    """The 2.5 percentile of the hierarchical bootstrap."""
    high: float
    """The 97.5 percentile."""
    p: float
    """One-sided, of "not higher"."""
    sites: Mapping[str, float]
    """The difference at each site."""
    sd: Mapping[str, float]
    """Standard deviation of the patients' differences at each site; NaN of a single patient."""
    patients: Mapping[str, int]
    seeds: int


def mean_interval(differences: Sequence[float]) -> tuple[float | None, float | None]:
    """Student's t interval of a mean, at `CONFIDENCE`; None for fewer than two differences."""
    count = len(differences)
    if count < 2:
        return None, None
    from scipy import stats  # noqa: PLC0415  slow to import, and needed at the end of a run alone

    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    half *= statistics.stdev(differences) / math.sqrt(count)
    mean = statistics.fmean(differences)
    return mean - half, mean + half


def compare(differences: Differences, *, seed: int = 0) -> Comparison:
    """The whole comparison of two methods.

    Args:
        seed: of the permutations and resamples.

    Raises:
        InvalidInput: if there is no site, seed or patient, or a difference is not finite.
    """
    _check(differences)
    patients = {site: values.mean(0) for site, values in differences.items()}
    means = {site: float(values.mean()) for site, values in patients.items()}
    draws = bootstrap(differences, seed=seed)
    low, high = np.quantile(draws, (0.025, 0.975)).tolist()
    return Comparison(
        estimate=float(np.mean(list(means.values()))),
        low=low,
        high=high,
        p=permutation_p_value(list(patients.values()), seed=seed),
        sites=means,
        sd={s: float(v.std(ddof=1)) if len(v) > 1 else float("nan") for s, v in patients.items()},
        patients={site: len(values) for site, values in patients.items()},
        seeds=len(next(iter(differences.values()))),
    )


def permutation_p_value(
    patients: Sequence[Float64[ndarray, " _"]], *, seed: int = 0, draws: int = PERMUTATIONS
) -> float:
    """p of the one-sided test that the mean over sites of the mean over patients is not above zero.

    Under that hypothesis the two methods may be swapped within any patient, which turns the sign of
    the patient's difference. Exact, over all 2^n swaps, where they are at most `MOST_EXACT`; else
    (1 + hits) / (1 + draws) over random ones (Phipson & Smyth 2010: never zero).

    Args:
        patients: one array for each site, of its patients' differences.
    """
    terms = np.concatenate([values / (len(values) * len(patients)) for values in patients])
    observed = terms.sum()
    # Equal sums, added in another order, must count as equal.
    floor = observed - 1e-12 * max(1.0, float(np.abs(terms).sum()))
    exact = 2 ** len(terms) <= MOST_EXACT
    if exact:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(terms))))
        return float(np.mean(signs @ terms >= floor))
    rng = np.random.default_rng(seed)
    hits, left = 0, draws
    while left:
        count = min(left, _BLOCK)
        signs = rng.integers(0, 2, (count, len(terms))) * 2.0 - 1.0
        hits += int(np.count_nonzero(signs @ terms >= floor))
        left -= count
    return (1 + hits) / (1 + draws)


def bootstrap(
    differences: Differences, *, draws: int = BOOTSTRAPS, seed: int = 0
) -> Float64[ndarray, " draws"]:
    """The estimate on resampled data: seeds are drawn jointly for all sites, patients within each
    site, both with replacement. The images of a patient stay together.
    """
    rng = np.random.default_rng(seed)
    arrays = list(differences.values())
    seeds = len(arrays[0])
    # A draw is a count of how often each seed and patient is taken.
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
    total = np.zeros(draws)
    for values in arrays:
        count = values.shape[1]
        columns = rng.multinomial(count, np.full(count, 1 / count), draws) / count
        total += ((rows @ values) * columns).sum(1)
    return total / len(arrays)


def simultaneous_lower_bounds(
    estimates: Float64[ndarray, " _k"], draws: Float64[ndarray, "draws _k"], *, level: float = 0.95
) -> Float64[ndarray, " _k"]:
    """Lower bounds that hold for all k quantities at once with probability `level`.

        L_j = θ_j − q · se_j,   q the `level` quantile of max_j (θ*_j − θ_j) / se_j

    over bootstrap draws θ*, with se_j their standard deviation (Davison & Hinkley 1997, section
    5.4, studentised by one standard error for all draws). A quantity that never moves is its own
    bound.

    Args:
        draws: of all quantities together, from the same resamples.
    """
    errors = draws.std(axis=0, ddof=1)
    moving = errors > 0
    if not moving.any():
        return estimates.copy()
    excess = (draws - estimates)[:, moving] / errors[moving]
    bounds: Float64[ndarray, " _k"] = (
        estimates - float(np.quantile(excess.max(axis=1), level)) * errors
    )
    return bounds


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p of each hypothesis by Holm's procedure (Holm 1979): rejecting those at or below a
    level keeps the family-wise error there."""
    adjusted, largest = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def detectable_effect(
    sd: Mapping[str, float],
    patients: Mapping[str, int],
    *,
    level: float = 0.025,
    power: float = 0.8,
) -> float:
    """The smallest difference that a one-sided test at `level` finds with probability `power`:

        (z_{1−level} + z_power) · √(Σ_s σ_s² / n_s) / S

    Args:
        sd: σ_s, by site, of the patients' differences.
        patients: n_s.
    """
    from scipy import stats  # noqa: PLC0415  slow to import, and needed at the end of a run alone

    error = np.sqrt(sum(sd[site] ** 2 / patients[site] for site in sd)) / len(sd)
    return float((stats.norm.ppf(1 - level) + stats.norm.ppf(power)) * error)


def _check(differences: Differences) -> None:
    shapes = {site: values.shape for site, values in differences.items()}
    if not shapes or any(min(shape) == 0 for shape in shapes.values()):
        raise InvalidInput(
            f"a comparison got differences of the shapes {shapes}, (seeds, patients) by site; it "
            "needs at least one of each"
        )
    if len({seeds for seeds, _ in shapes.values()}) > 1:
        raise InvalidInput(
            f"a comparison got other numbers of seeds at some sites ({shapes}); use the seeds that "
            "all of them have"
        )
    if not all(np.isfinite(values).all() for values in differences.values()):
        raise InvalidInput("a difference is not finite; leave out images without a score")

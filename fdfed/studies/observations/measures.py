"""Numbers that describe pairs of L_fd and Dice over test images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from numpy.typing import NDArray
from scipy import stats

from fdfed.studies.scored_images import ScoredImage

Measure = Callable[[NDArray[np.int64]], float]

DRAWS = 1000
"""Bootstrap resamples of patients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and its 95 % interval from a bootstrap over patients; None where undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """Between L_fd of a tap and Dice, over images."""

    pearson: Estimate
    spearman: Estimate
    slope: float | None
    """Of the least-squares line, Dice per nat."""
    intercept: float | None
    images: int
    patients: int


def averaged(runs: Iterable[Sequence[ScoredImage]]) -> list[ScoredImage]:
    """Every image once: scores and discrepancies averaged over runs that scored it, in the order of
    the first run; pixel counts are those of the first."""
    known = [list(images) for images in runs]
    by_key: dict[tuple[str, str], list[ScoredImage]] = {}
    for images in known:
        for image in images:
            by_key.setdefault((image.site, image.image), []).append(image)
    return [_mean_of(group) for group in by_key.values()]


def _mean_of(group: Sequence[ScoredImage]) -> ScoredImage:
    taps = set.intersection(*(set(image.discrepancy) for image in group))

    def mean(values: Sequence[float | None]) -> float | None:
        found = [value for value in values if value is not None]
        return math.fsum(found) / len(found) if len(found) == len(values) else None

    return replace(
        group[0],
        dice=mean([image.dice for image in group]),
        iou=mean([image.iou for image in group]),
        discrepancy={
            tap: math.fsum(image.discrepancy[tap] for image in group) / len(group)
            for tap in group[0].discrepancy
            if tap in taps
        },
    )


def correlation(images: Sequence[ScoredImage], tap: str) -> Correlation:
    """How Dice goes with L_fd of a tap."""
    kept = usable(images, tap)
    loss, dice = _columns(kept, tap)
    line: tuple[float | None, float | None] = (None, None)
    if len(kept) > 2 and np.ptp(loss) > 0:
        fitted = stats.linregress(loss, dice)
        line = (float(fitted.slope), float(fitted.intercept))
    return Correlation(
        pearson=over_patients(kept, lambda chosen: _pearson(loss[chosen], dice[chosen])),
        spearman=over_patients(kept, lambda chosen: _spearman(loss[chosen], dice[chosen])),
        slope=line[0],
        intercept=line[1],
        images=len(kept),
        patients=len({(image.site, image.patient) for image in kept}),
    )


def share_within_bound(images: Sequence[ScoredImage], tap: str) -> float | None:
    """The share of images with −log(Dice · (k + 1)) ≤ L_fd (Eq. 2), k the annotated over the
    predicted pixels of the image, as the proof has it (supplement B.1).

    An image without a predicted pixel, or a Dice of zero, has no left side and is left out. The
    proof normalises the discrepancy; L_fd here is that which is trained.
    """
    kept = [i for i in usable(images, tap) if i.dice and i.predicted_pixels]
    if not kept:
        return None
    held = [
        -math.log((i.dice or 0.0) * (i.annotated_pixels / i.predicted_pixels + 1))
        <= i.discrepancy[tap]
        for i in kept
    ]
    return sum(held) / len(held)


def mediated_share(images: Sequence[ScoredImage], tap: str) -> Estimate:
    """The share of the site's effect on Dice that goes through Z = L_fd of the tap: 1 − c'/c, with
    c the coefficient of the site alone and c' that of the site beside Z, by least squares (Baron &
    Kenny 1986); of two sites.

    An association under strong assumptions, among them that nothing else drives both Z and Dice:
    an observation. Undefined where the site has no effect to share.
    """
    kept = usable(images, tap)
    sites = sorted({image.site for image in kept})
    if len(sites) != 2:
        return Estimate(value=None)
    loss, dice = _columns(kept, tap)
    second = np.array([image.site == sites[1] for image in kept], dtype=np.float64)
    return over_patients(kept, lambda chosen: _mediated(second[chosen], loss[chosen], dice[chosen]))


def _mediated(
    site: Float64[ndarray, " images"],
    loss: Float64[ndarray, " images"],
    dice: Float64[ndarray, " images"],
) -> float:
    if np.ptp(site) == 0 or np.ptp(loss) == 0:
        return math.nan
    ones = np.ones_like(site)
    total = np.linalg.lstsq(np.stack((ones, site), 1), dice, rcond=None)[0][1]
    direct = np.linalg.lstsq(np.stack((ones, site, loss), 1), dice, rcond=None)[0][1]
    return float(1 - direct / total) if abs(total) > 1e-9 else math.nan


def moved(before: Sequence[ScoredImage], after: Sequence[ScoredImage], tap: str) -> float | None:
    """The share of images that went to a lower L_fd and a higher Dice (supplement C, Fig. 8)."""
    pairs = paired(before, after, tap)
    if not pairs:
        return None
    better = [
        new.discrepancy[tap] < old.discrepancy[tap] and (new.dice or 0) > (old.dice or 0)
        for old, new in pairs
    ]
    return sum(better) / len(better)


def paired(
    before: Sequence[ScoredImage], after: Sequence[ScoredImage], tap: str
) -> list[tuple[ScoredImage, ScoredImage]]:
    """The images that are usable in both."""
    later = {(image.site, image.image): image for image in usable(after, tap)}
    return [
        (image, later[image.site, image.image])
        for image in usable(before, tap)
        if (image.site, image.image) in later
    ]


def usable(images: Iterable[ScoredImage], tap: str) -> list[ScoredImage]:
    """The images that have a Dice, and both prototypes at the tap."""
    return [image for image in images if image.dice is not None and tap in image.discrepancy]


def worst_and_best(
    baseline: Sequence[ScoredImage], *, at_most: int
) -> tuple[set[str], set[str], float]:
    """Names of the k worst and k best images of one site under the baseline, and the Dice below
    which the worst lie; k = min(at_most, n / 3), so that the two never overlap."""
    ranked = sorted((i for i in baseline if i.dice is not None), key=lambda i: i.dice or 0.0)
    count = min(at_most, len(ranked) // 3)
    worst, best = ranked[:count], ranked[len(ranked) - count :]
    threshold = max((image.dice or 0.0 for image in worst), default=math.nan)
    return {i.image for i in worst}, {i.image for i in best}, threshold


def over_patients(images: Sequence[ScoredImage], measure: Measure) -> Estimate:
    """`measure` of the images, with an interval from resampled patients, whose images stay
    together.

    Args:
        measure: given the places of images in the sequence, some of them more than once.
    """
    by_patient: dict[tuple[str, str], list[int]] = {}
    for place, image in enumerate(images):
        by_patient.setdefault((image.site, image.patient), []).append(place)
    groups = [np.array(places) for places in by_patient.values()]
    value = measure(np.arange(len(images))) if images else math.nan
    if math.isnan(value):
        return Estimate(value=None)
    rng = np.random.default_rng(0)
    draws = (rng.integers(0, len(groups), len(groups)) for _ in range(DRAWS))
    found = [measure(np.concatenate([groups[place] for place in draw])) for draw in draws]
    known = [drawn for drawn in found if not math.isnan(drawn)]
    if not known:
        return Estimate(value=value)
    low, high = np.quantile(known, (0.025, 0.975)).tolist()
    return Estimate(value=value, low=low, high=high)


def _columns(
    images: Sequence[ScoredImage], tap: str
) -> tuple[Float64[ndarray, " images"], Float64[ndarray, " images"]]:
    loss = np.array([image.discrepancy[tap] for image in images], dtype=np.float64)
    return loss, np.array([image.dice for image in images], dtype=np.float64)


def _pearson(loss: Float64[ndarray, " images"], dice: Float64[ndarray, " images"]) -> float:
    if len(loss) < 3 or np.ptp(loss) == 0 or np.ptp(dice) == 0:
        return math.nan
    return float(np.corrcoef(loss, dice)[0, 1])


def _spearman(loss: Float64[ndarray, " images"], dice: Float64[ndarray, " images"]) -> float:
    if len(loss) < 3 or np.ptp(loss) == 0 or np.ptp(dice) == 0:
        return math.nan
    return _pearson(stats.rankdata(loss), stats.rankdata(dice))

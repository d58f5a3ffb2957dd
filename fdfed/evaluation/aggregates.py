"""Scores of images, and the aggregates of them that leave a site.

A site keeps the scores of single images; what it hands on is an `Aggregate`, and only over a
minimum count of images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from fdfed.errors import InvalidInput

QUARTILES_FROM: Final = 10
"""Fewest images over which quartiles are given."""


@dataclass(frozen=True, slots=True)
class ImageScore:
    """Overlap on one image, as fractions in [0, 1]."""

    name: str
    dice: float
    """2 |P ∩ G| / (|P| + |G|) for predicted pixels P and annotated pixels G; NaN: excluded."""
    iou: float
    """|P ∩ G| / |P ∪ G|; NaN: excluded."""
    foreground_pixels: int
    """|G|, in pixels of the scored mask."""
    empty: bool
    """Whether the annotation has no foreground (|G| = 0)."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A score over a site's images: all that a coordinator may receive of them."""

    n: int
    """Images that entered the mean."""
    n_empty: int
    """Images left out because their annotation is empty."""
    mean: float
    sd: float
    """Sample standard deviation (divisor n - 1); 0 for a single image, never NaN."""
    q25: float
    """Quartiles are NaN below `QUARTILES_FROM` images, where each would be one image's score."""
    median: float
    q75: float


def aggregate(values: Iterable[float], *, min_count: int) -> Aggregate | None:
    """Mean, spread and quartiles of `values`, or `None` over fewer than `min_count` images.

    NaN is an excluded image: counted in `n_empty`, and in nothing else. Quartiles interpolate
    linearly between order statistics; over few images a quartile is the score of one of them (at
    n = 5 all three are), so they are NaN below `QUARTILES_FROM` images.

    Raises:
        InvalidInput: if `min_count` is below 1 or a value is infinite.
    """
    if min_count < 1:
        raise InvalidInput(f"min_count is {min_count}; an aggregate needs at least 1 image")
    everything = list(values)
    kept = [value for value in everything if not math.isnan(value)]
    if any(math.isinf(value) for value in kept):
        raise InvalidInput("a score is infinite; Dice and IoU are fractions from 0 to 1")
    if len(kept) < min_count:
        return None
    scores = np.asarray(kept, dtype=np.float64)
    quartiles = np.quantile(scores, (0.25, 0.5, 0.75)).tolist()
    q25, median, q75 = quartiles if len(kept) >= QUARTILES_FROM else (math.nan,) * 3
    return Aggregate(
        n=len(kept),
        n_empty=len(everything) - len(kept),
        mean=float(scores.mean()),
        sd=float(scores.std(ddof=1)) if len(kept) > 1 else 0.0,
        q25=q25,
        median=median,
        q75=q75,
    )

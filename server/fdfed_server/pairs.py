"""How close the sites' features are to each other, pair by pair, over a round.

Only distances are used, so a hub that sees blinded prototypes can tell it as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fdfed.exchange import TapLayout

MAX_SITES: Final = 16
"""Above it no pairs are kept: their number grows with the square, and nobody reads such a table."""

_EPS: Final = 1e-6


def pair_terms(
    layout: TapLayout, vectors: NDArray[np.float64], valid: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """`(taps, S, S)`: −log(‖F_s − B_t‖² + ‖F_t − B_s‖² + ε) of each pair of one step (Eq. 4,
    without a bound, whatever the plan's form); on the diagonal −log(‖F_s − B_s‖² + ε), which is
    site s's own L_fd of its batch means (Eq. 1). NaN where a site's tap was not valid.

    Args:
        vectors: `(S, size)`.
        valid: `(S, taps)`.
    """
    sites = len(vectors)
    terms = np.full((layout.taps, sites, sites), np.nan)
    for tap, (_, fore, back) in enumerate(layout.spans()):
        F, B = vectors[:, fore], vectors[:, back]
        # Not by the product formula: for features that lie close it loses the digits that count.
        across = np.square(F[:, None] - B[None]).sum(-1)
        distance = across + across.T
        np.fill_diagonal(distance, across.diagonal())
        known = valid[:, tap, None] & valid[None, :, tap]
        terms[tap] = np.where(known, -np.log(distance + _EPS), np.nan)
    return terms


@dataclass(slots=True)
class PairMeans:
    """Adds up the pair terms of a round's steps, of whichever sites were there at each."""

    layout: TapLayout
    sites: Sequence[str]
    total: NDArray[np.float64]
    count: NDArray[np.int64]

    @classmethod
    def empty(cls, layout: TapLayout, sites: Sequence[str]) -> PairMeans:
        """Of a round that has just begun."""
        shape = (layout.taps, len(sites), len(sites))
        return cls(layout, tuple(sites), np.zeros(shape), np.zeros(shape, np.int64))

    def add(
        self, present: Sequence[int], vectors: NDArray[np.float64], valid: NDArray[np.bool_]
    ) -> None:
        """Takes a step of the sites with these indices; does nothing for too many sites."""
        if len(self.sites) > MAX_SITES or len(present) < 2:
            return
        terms = pair_terms(self.layout, vectors, valid)
        place = np.ix_(range(self.layout.taps), present, present)
        known = ~np.isnan(terms)
        self.total[place] += np.where(known, terms, 0.0)
        self.count[place] += known

    def means(self) -> Mapping[str, Mapping[str, float]]:
        """`{"tnbc monuseg": {tap: mean}}` of every pair that ever met, and `{"tnbc tnbc": …}`."""
        found: dict[str, dict[str, float]] = {}
        for s, first in enumerate(self.sites):
            for t in range(s, len(self.sites)):
                taps = {
                    tap: float(self.total[i, s, t] / self.count[i, s, t])
                    for i, tap in enumerate(self.layout.names)
                    if self.count[i, s, t]
                }
                if taps:
                    found[f"{first} {self.sites[t]}"] = taps
        return found

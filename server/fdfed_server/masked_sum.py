"""The sum of the sites' masked contributions, folded in one reply at a time.

Memory is the running sum, 8 bytes a number, and one reply, or a block of one that lies on disk.
Before the last contribution
of the attempt is in, the sum is as uniform as each of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fdfed.errors import QuorumNotMet, WireError
from fdfed.privacy import ContributionLayout, Mean
from fdfed.wire import Integers


class MaskedSum:
    """Σ_s y_s modulo 2⁶⁴.

    Args:
        layout: of each contribution.
    """

    def __init__(self, layout: ContributionLayout) -> None:
        self._layout = layout
        self._size = layout.size
        self._total: NDArray[np.uint64] | None = None

    def fold(self, values: NDArray[np.uint64] | Integers) -> None:
        """Adds one site's contribution.

        Raises:
            WireError: if it is not as long as the plan's network wants it.
        """
        if values.size != self._size:
            raise WireError(
                f"the masked update has {values.size} numbers, the plan's network {self._size}; "
                "both sides need the same fdfed version"
            )
        if self._total is None:
            self._total = np.zeros(self._size, np.uint64)
        if isinstance(values, Integers):
            for begin, block in values.blocks():
                self._total[begin : begin + len(block)] += block
        else:
            self._total += values

    def mean(self, *, examples: int) -> Mean:
        """The mean over the sites that are in; to be called when all of the attempt are.

        Args:
            examples: what they announced in all.

        Raises:
            QuorumNotMet: if masks are left in the sum, or its count is another.
        """
        mean = None if self._total is None else self._layout.mean(self._total)
        if mean is None or mean.examples != examples:
            raise QuorumNotMet(
                "the masks did not cancel in the sum, or the examples in it are not the "
                f"{examples} that the sites announced: they were not all shown the same keys and "
                "weights, or one of them has other images than it said. The attempt is void"
            )
        return mean

"""The sum of the sites' masked contributions, folded in one reply at a time.

Memory is the running sum, 8 bytes a number, and one reply, or a block of one that lies on disk; the
sum is held tensor by tensor, and each goes as its mean comes. Before the last contribution of the
attempt is in, the sum is as uniform as each of them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fdfed.errors import QuorumNotMet, WireError
from fdfed.privacy import ContributionLayout, Mean
from fdfed.wire import Integers

_BLOCK: Final = 1 << 17
"""Integers that are added at a time: 1 MiB, which stays in a cache."""


class MaskedSum:
    """Σ_s y_s modulo 2⁶⁴.

    Args:
        layout: of each contribution.
    """

    def __init__(self, layout: ContributionLayout) -> None:
        self._layout = layout
        self._size = layout.size
        self._parts: list[NDArray[np.uint64]] = []

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
        if not self._parts:
            self._parts = [np.zeros(length, np.uint64) for length in self._layout.lengths]
        start = 0
        for part in self._parts:
            for begin in range(0, len(part), _BLOCK):
                block = part[begin : begin + _BLOCK]
                first, last = start + begin, start + begin + len(block)
                block += (
                    values.block(first, last)
                    if isinstance(values, Integers)
                    else values[first:last]
                )
            start += len(part)

    def mean(self, *, examples: int) -> Mean:
        """The mean over the sites that are in; to be called once, when all of the attempt are,
        since it uses the sum up.

        Args:
            examples: what they announced in all.

        Raises:
            QuorumNotMet: if masks are left in the sum, or its count is another.
        """
        mean = self._layout.mean_of_parts_(self._parts) if self._parts else None
        if mean is None or mean.examples != examples:
            raise QuorumNotMet(
                "the masks did not cancel in the sum, or the examples in it are not the "
                f"{examples} that the sites announced: they were not all shown the same keys and "
                "weights, or one of them has other images than it said. The attempt is void"
            )
        return mean

"""The coordinate-wise trimmed mean and median of the sites' weights, tensor by tensor from disk.

Source: Yin et al. 2018, arXiv:1803.01498, Definitions 1 and 2. Sites count equally, as there: by
examples, a hostile site that announces many of them would be the median.

Memory beyond the result is a few blocks of one tensor of all sites (`_BLOCK_BYTES`), however many
sites there are and however large the model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdfed.config import RunPlan
from fdfed_server.aggregation import Incoming, WeightedAverage
from fdfed_server.update_spool import UpdateSpool

_BLOCK_BYTES: Final = 16 << 20
"""Of one block in fp64. At most three are in memory at a time."""

CutOf = Callable[[int], int]
"""How many values are cut off at either end of so many."""


class RobustAverage(Incoming):
    """The centre of the sites folded in: in each coordinate the mean of the values that are left
    without the `cut_of(S)` smallest and largest.

    Floating-point tensors come back in their own dtype; counters are rounded to integers.

    Args:
        reference, measured: as of `Incoming`.
        spool: where the updates are kept; entered.
    """

    def __init__(
        self,
        reference: Mapping[str, NDArray[Any]],
        *,
        measured: frozenset[str],
        spool: UpdateSpool,
        cut_of: CutOf,
    ) -> None:
        super().__init__(reference, measured=measured)
        self._spool = spool
        self._cut_of = cut_of
        self._spread = 0.0

    def fold(
        self,
        weights: Mapping[str, NDArray[Any]],
        *,
        num_examples: int,
        square_move: float | None = None,
    ) -> float:
        """Keeps one site's checked weights; returns how far the site moved. `num_examples` counts
        for nothing."""
        self._spool.add(weights)
        return float(np.sqrt(self.square_move(weights) if square_move is None else square_move))

    def result(self) -> dict[str, NDArray[Any]]:
        """The centre, in the reference's dtypes and order. At least one site must be in."""
        spreads: dict[str, float] = {}
        centres = {name: self._centre(name, spreads) for name in self._reference}
        self._spread = sum(spreads[name] for name in self._measured) / len(self._spool)
        return centres

    def drift(self, average: Mapping[str, NDArray[Any]]) -> float:
        """How far apart the sites ended: √(Σ_s ‖W_s − W̄‖² / S) around the last `result`."""
        return float(np.sqrt(self._spread))

    def _centre(self, name: str, spreads: dict[str, float]) -> NDArray[Any]:
        own, sites = self._reference[name], len(self._spool)
        centre = np.empty(own.size, dtype=own.dtype)
        step = max(1, _BLOCK_BYTES // (8 * sites))
        spreads[name] = 0.0
        for begin in range(0, own.size, step):
            end = min(begin + step, own.size)
            block = self._spool.block(name, begin, end)
            block.sort(axis=0)
            middle = _mean_of_sorted(block, self._cut_of(sites))
            centre[begin:end] = np.rint(middle) if own.dtype.kind == "i" else middle
            if name in self._measured:
                block -= centre[begin:end]
                spreads[name] += float(np.vdot(block, block))
        return centre.reshape(own.shape)


def robust_centre(values: NDArray[np.float64], cut_of: CutOf) -> NDArray[np.float64]:
    """The same of a vector that each site has, `(sites, n)` to `(n,)`.

    A column's NaN are left out; where only one or two sites have a value, it is their mean.
    """
    centre = np.full(values.shape[1], np.nan)
    for column in range(values.shape[1]):
        known = np.sort(values[~np.isnan(values[:, column]), column])
        if len(known):
            cut = min(cut_of(len(known)), (len(known) - 1) // 2)
            centre[column] = _mean_of_sorted(known[:, None], cut)[0]
    return centre


@contextmanager
def open_average(
    plan: RunPlan,
    reference: Mapping[str, NDArray[Any]],
    *,
    measured: frozenset[str],
    spool: Path | None,
) -> Iterator[WeightedAverage | RobustAverage]:
    """What the plan folds updates in the clear into.

    Args:
        spool: folder that a robust average may use, and removes; None is a temporary one.
    """
    if plan.aggregation == "plain":
        yield WeightedAverage(reference, measured=measured)
        return
    with (
        tempfile.TemporaryDirectory(prefix="fdfed-spool-") as folder,
        UpdateSpool(spool or Path(folder) / "updates", reference) as updates,
    ):
        yield RobustAverage(reference, measured=measured, spool=updates, cut_of=plan.defence.cut_of)


def _mean_of_sorted(values: NDArray[np.float64], cut: int) -> NDArray[np.float64]:
    """`(S, n)`, each column sorted, to the mean of what is left without `cut` at either end."""
    mean: NDArray[np.float64] = values[cut : len(values) - cut].mean(axis=0)
    return mean

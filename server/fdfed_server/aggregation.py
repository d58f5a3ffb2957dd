"""The weighted average of the sites' weights, folded in one reply at a time.

Memory is the running sum (fp64) and a block of one reply, however many sites answer. The order
of folding is the caller's and fixed, so equal replies give equal bits whatever order they came in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdfed.errors import WireError
from fdfed.wire import Blockwise

_BLOCK: Final = 1 << 17
"""Elements of a tensor that are computed with at a time: 1 MiB in fp64, which stays in a cache."""
_MAX_COUNT: Final = 2**53
"""Of a counter: the sum is in fp64, which holds no larger integers exactly."""


class _Room:
    """Memory for one block, used again for each: to make it anew costs as much as to fill it."""

    def __init__(self) -> None:
        self.bytes = np.empty(8 * _BLOCK, np.uint8)
        self.terms = np.empty(_BLOCK)


def _blocks(
    beside: NDArray[Any], weights: Mapping[str, NDArray[Any]], name: str, room: _Room
) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]]:
    """Views of an array, which may be written to, and of the tensor of its shape, block by block,
    each with room for as many numbers; of weights that lie on disk no more than a block is read at
    a time. A block is gone when the next one comes."""
    flat = beside.reshape(-1)
    source = weights if isinstance(weights, Blockwise) else np.ravel(weights[name])
    for begin in range(0, flat.size, _BLOCK):
        end = min(begin + _BLOCK, flat.size)
        if isinstance(source, Blockwise):
            value = source.block(name, begin, end, buffer=room.bytes)
        else:
            value = source[begin:end]
        yield flat[begin:end], value, room.terms[: end - begin]


def _described(
    weights: Mapping[str, NDArray[Any]], name: str
) -> tuple[np.dtype[Any], tuple[int, ...]]:
    if isinstance(weights, Blockwise):
        return weights.described(name)
    return weights[name].dtype, weights[name].shape


def _not_finite(name: str) -> WireError:
    return WireError(f"the tensor {name!r} of the update holds values that are not finite")


class Incoming:
    """Updates that come in, set against the weights that were sent.

    Args:
        reference: the global weights at the start of the round; fixes names, shapes and dtypes.
        measured: the names whose change from `reference` counts in the drift (the trained
            parameters, without running statistics).
    """

    def __init__(self, reference: Mapping[str, NDArray[Any]], *, measured: frozenset[str]) -> None:
        self._reference = reference
        # Sorted, so that the drift has the same bits whatever order the tensors come in: a resumed
        # run reads them in the order of a file.
        self._names_measured = measured
        self._measured = sorted(measured)
        self._room = _Room()

    def check(self, weights: Mapping[str, NDArray[Any]]) -> float:
        """Refuses what must not enter the sum, before any of it does; returns ‖weights − W‖² over
        the measured tensors, which takes no further pass.

        Raises:
            WireError: for a missing or foreign tensor, another shape or dtype, a value that is not
                finite, or a counter out of range.
        """
        if set(weights) != set(self._reference):
            odd = sorted(set(weights).symmetric_difference(self._reference))
            raise WireError(f"the update lacks or adds tensors: {', '.join(odd[:5])}")
        for name, own in self._reference.items():
            dtype, shape = _described(weights, name)
            if shape != own.shape or dtype != own.dtype:
                raise WireError(
                    f"the tensor {name!r} of the update is {dtype} {shape}; the model has "
                    f"{own.dtype} {own.shape}"
                )
        total = sum(self._checked_move(weights, name) for name in self._measured)
        for name, sent in self._reference.items():
            if name in self._names_measured:
                continue
            for own, value, _ in _blocks(sent, weights, name, self._room):
                if own.dtype.kind == "f" and not np.isfinite(value).all():
                    raise _not_finite(name)
                if own.dtype.kind == "i" and ((value < 0) | (value > _MAX_COUNT)).any():
                    raise WireError(
                        f"the counter {name!r} of the update is not in 0 to {_MAX_COUNT}"
                    )
        return total

    def _checked_move(self, weights: Mapping[str, NDArray[Any]], name: str) -> float:
        move = self._square_move(weights, name)
        # Of numbers that are finite only fp64 has an infinite sum of squares: then it is seen
        # which it was. Else a pass for the finiteness alone is spared.
        if not np.isfinite(move):
            for _, value, _ in _blocks(self._reference[name], weights, name, self._room):
                if not np.isfinite(value).all():
                    raise _not_finite(name)
        return move

    def square_move(self, weights: Mapping[str, NDArray[Any]]) -> float:
        """‖weights − W‖² over the measured tensors."""
        return sum(self._square_move(weights, name) for name in self._measured)

    def _square_move(self, weights: Mapping[str, NDArray[Any]], name: str) -> float:
        total = 0.0
        with np.errstate(over="ignore", invalid="ignore"):  # infinite then, as it should be
            for own, value, move in _blocks(self._reference[name], weights, name, self._room):
                np.subtract(value, own, out=move, dtype=np.float64)
                # Not a product of BLAS, whose order of adding depends on its number of threads.
                total += float(np.einsum("i,i->", move, move))
        return total


class WeightedAverage(Incoming):
    """Σ_s n_s W_s / Σ_s n_s over the sites folded in.

    Floating-point tensors are averaged in fp64 and returned in their own dtype. Integer tensors
    (the step counters of batch normalisation) are averaged too, then rounded: they stay integers,
    where a plain mean would turn them into floats that no network loads.

    Args:
        reference, measured: as of `Incoming`.
    """

    def __init__(self, reference: Mapping[str, NDArray[Any]], *, measured: frozenset[str]) -> None:
        super().__init__(reference, measured=measured)
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._examples = 0
        self._square_moves = 0.0

    def fold(
        self,
        weights: Mapping[str, NDArray[Any]],
        *,
        num_examples: int,
        square_move: float | None = None,
    ) -> float:
        """Adds one site's checked weights; returns how far the site moved, ‖W_s − W‖₂.

        Args:
            square_move: what `check` returned, where it is known already.
        """
        for name, own in self._reference.items():
            if name not in self._sums:
                self._sums[name] = np.zeros(own.shape)
            for total, value, term in _blocks(self._sums[name], weights, name, self._room):
                np.multiply(value, num_examples, out=term, dtype=np.float64)
                np.add(total, term, out=total)
        if square_move is None:
            square_move = self.square_move(weights)
        self._examples += num_examples
        self._square_moves += num_examples * square_move
        return float(np.sqrt(square_move))

    @property
    def examples(self) -> int:
        """Σ n_s of the sites folded in."""
        return self._examples

    def result(self) -> dict[str, NDArray[Any]]:
        """The average, in the reference's dtypes and order; to be called once, since it uses the
        sum up. At least one site must be in."""
        averages: dict[str, NDArray[Any]] = {}
        for name, own in self._reference.items():
            # Each sum goes as its mean comes: both together would be three models.
            mean = self._sums.pop(name)
            mean /= self._examples
            value = np.rint(mean) if own.dtype.kind == "i" else mean
            # NumPy turns an array without dimensions into a scalar; a counter must stay an array.
            averages[name] = np.asarray(value, dtype=own.dtype)
        return averages

    def drift(self, average: Mapping[str, NDArray[Any]]) -> float:
        """How far apart the sites ended: √(Σ_s w_s ‖W_s − W̄‖²), w_s = n_s / N.

        Computed as Σ w_s ‖W_s − W‖² − ‖W̄ − W‖², which needs no second pass over the replies. Zero
        when every site made the same update; with one gradient step a round it is the spread of
        the sites' gradients times the learning rate.
        """
        mean_move = self.square_move(average)
        return float(np.sqrt(max(0.0, self._square_moves / self._examples - mean_move)))

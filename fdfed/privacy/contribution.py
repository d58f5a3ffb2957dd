"""What one site adds to a masked sum: its weights, its α and its losses, each times its examples.

Everything that the coordinator needs of a site's round is linear in the sites, so that it can be
had from sums: the weighted means of weights, α and losses, and N. A loss that a site could not
measure adds nothing to its sum nor to the sum of the examples behind it.

    entry            as what        summed
    each tensor      its own kind   n W
    examples         counter        n
    loss_seg         real           n L_seg
    α                real, a tap    n α
    fd, exch, total  real, a tap    n L where known, else 0
    ... known        counter, a tap n where known, else 0
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdfed.errors import InvalidInput
from fdfed.privacy.fixed_point import encode, mean

_REAL: Final = np.dtype(np.float64)
_COUNTER: Final = np.dtype(np.int64)
_BY_TAP: Final = ("fd", "exch", "total")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measures:
    """What a site reports of a round beside its weights; also the mean of that over sites."""

    loss_seg: float
    alpha: NDArray[np.float64]
    """The proposed α, not clipped, one a tap."""
    fd: NDArray[np.float64]
    """L_fd, one a tap; NaN where unknown. `exch` and `total` (what α weighs) likewise."""
    exch: NDArray[np.float64]
    total: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mean:
    """The decoded sum."""

    examples: int
    """Σ n of the sites whose contributions are in it."""
    weights: dict[str, NDArray[Any]]
    measures: Measures


@dataclass(frozen=True, slots=True)
class ContributionLayout:
    """Where each tensor and measure lies among the integers of a contribution; both sides derive it
    from the network, so that it never travels."""

    tensors: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]
    taps: int

    @classmethod
    def of(cls, weights: Mapping[str, NDArray[Any]], *, taps: int) -> ContributionLayout:
        """The layout for tensors like `weights` and so many taps. Tensors are sorted by name: a
        coordinator that has read them from a file holds them in another order."""
        return cls(tuple((name, w.dtype, w.shape) for name, w in sorted(weights.items())), taps)

    @property
    def size(self) -> int:
        """Integers of a contribution."""
        return sum(self.lengths)

    def contribution(
        self, weights: Mapping[str, NDArray[Any]], measures: Measures, *, num_examples: int
    ) -> NDArray[np.uint64]:
        """n q(x) of every entry, flat `(size,)`, modulo 2⁶⁴; written tensor by tensor.

        Raises:
            InvalidInput: if a value is out of the range of `fixed_point`.
        """
        values = np.empty(self.size, np.uint64)
        start = 0
        for name, entry in self._entries(weights, measures):
            end = start + entry.size
            np.multiply(
                encode(entry, name=name), num_examples, out=values[start:end].view(_COUNTER)
            )
            start = end
        return values

    def mean(self, total: NDArray[np.uint64]) -> Mean | None:
        """The mean of the contributions in `total`; None where it is no sum of contributions, as
        when masks are left in it.

        Args:
            total: `(size,)`, the sum modulo 2⁶⁴.
        """
        ends = np.cumsum(self.lengths)
        return self.mean_of_parts_(np.split(total, ends[:-1]))

    @property
    def lengths(self) -> list[int]:
        """Integers of each tensor, in order, and of all measures together."""
        tensors = [math.prod(shape) for _, _, shape in self.tensors]
        return [*tensors, sum(length for _, _, length in self._measures())]

    def mean_of_parts_(self, parts: list[NDArray[np.uint64]]) -> Mean | None:
        """`mean` of a sum in parts of these `lengths`, which it takes from the list one by one:
        each is gone as its mean comes, since both together would be three models of fp32."""
        sums = dict(self._slices(parts.pop()))
        examples = int(sums["examples"].view(_COUNTER)[0])
        known = {name: sums[f"{name}.known"].view(_COUNTER) for name in _BY_TAP}
        if examples < 1 or any(((k < 0) | (k > examples)).any() for k in known.values()):
            return None
        return Mean(
            examples=examples,
            weights=self._weights(parts, examples),
            measures=Measures(
                loss_seg=float(mean(sums["loss_seg"], examples=examples, dtype=_REAL)[0]),
                alpha=mean(sums["alpha"], examples=examples, dtype=_REAL),
                **{name: _known_mean(sums[name], known[name]) for name in _BY_TAP},
            ),
        )

    def _measures(self) -> Iterator[tuple[str, np.dtype[Any], int]]:
        yield "examples", _COUNTER, 1
        yield "loss_seg", _REAL, 1
        yield "alpha", _REAL, self.taps
        for name in _BY_TAP:
            yield name, _REAL, self.taps
            yield f"{name}.known", _COUNTER, self.taps

    def _entries(
        self, weights: Mapping[str, NDArray[Any]], measures: Measures
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        for name, dtype, shape in self.tensors:
            tensor = weights[name]
            if tensor.dtype != dtype or tensor.shape != shape:
                raise InvalidInput(
                    f"the tensor {name!r} is {tensor.dtype} {tensor.shape}, but the network of "
                    f"the plan has {dtype} {shape}"
                )
            yield name, tensor
        for name, _, length in self._measures():
            entry = _measured(measures, name)
            if len(entry) != length:
                raise InvalidInput(f"{name} has {len(entry)} entries, but there are {length} taps")
            yield name, entry

    def _slices(self, values: NDArray[np.uint64]) -> Iterator[tuple[str, NDArray[np.uint64]]]:
        start = 0
        for name, _, length in self._measures():
            yield name, values[start : start + length]
            start += length

    def _weights(self, parts: list[NDArray[np.uint64]], examples: int) -> dict[str, NDArray[Any]]:
        weights = {}
        parts.reverse()
        for name, dtype, shape in self.tensors:
            weights[name] = mean(parts.pop(), examples=examples, dtype=dtype).reshape(shape)
        return weights


def _measured(measures: Measures, name: str) -> NDArray[Any]:
    if name == "examples":
        return np.ones(1, _COUNTER)
    if name == "loss_seg":
        return np.array([measures.loss_seg])
    field, _, known = name.partition(".")
    vector: NDArray[np.float64] = getattr(measures, field)
    if known:
        return (~np.isnan(vector)).astype(_COUNTER)
    return vector if field == "alpha" else np.where(np.isnan(vector), 0.0, vector)


def _known_mean(total: NDArray[np.uint64], known: NDArray[np.int64]) -> NDArray[np.float64]:
    """Σ n L / Σ n over the sites that know L; NaN where none does."""
    return np.array(
        [
            mean(total[i : i + 1], examples=int(n), dtype=_REAL)[0] if n else np.nan
            for i, n in enumerate(known)
        ]
    )

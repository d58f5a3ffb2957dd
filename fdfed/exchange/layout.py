"""Where each tap's prototypes lie in the one vector that a site sends per step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdfed.errors import InvalidInput
from fdfed.exchange.frames import MAX_ELEMENTS, MAX_TAPS


@dataclass(frozen=True, slots=True)
class TapLayout:
    """Taps in their fixed order: the foreground of all taps, then the background of all taps.

        vector = [F_1 | F_2 | … | F_L | B_1 | B_2 | … | B_L],   F_l and B_l of shape (C_l,)

    Both halves share one geometry, so that `vector[: size // 2]` is all foreground.
    """

    names: tuple[str, ...]
    channels: tuple[int, ...]
    """C_l, in the order of `names`."""
    _offsets: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.channels):
            raise InvalidInput(
                f"a tap layout got {len(self.names)} names and {len(self.channels)} channel counts;"
                " give one channel count per tap, and at least one tap"
            )
        if len(set(self.names)) != len(self.names) or min(self.channels) < 1:
            raise InvalidInput(
                f"a tap layout got names {self.names} and channels {self.channels}; names must "
                "differ and every tap needs a channel"
            )
        if len(self.names) > MAX_TAPS or 2 * sum(self.channels) > MAX_ELEMENTS:
            raise InvalidInput(
                f"a tap layout has {len(self.names)} taps and {2 * sum(self.channels)} elements; "
                f"a frame holds at most {MAX_TAPS} taps and {MAX_ELEMENTS} elements. Exchange "
                "fewer taps, or build a narrower network"
            )
        ends = np.cumsum((0, *self.channels)).tolist()
        object.__setattr__(self, "_offsets", tuple(ends))

    @classmethod
    def of(cls, prototypes: Mapping[str, Any]) -> TapLayout:
        """The layout of prototypes (or features) whose channel axis is the last, or of a `(C,)`."""
        return cls(tuple(prototypes), tuple(int(value.shape[-1]) for value in prototypes.values()))

    def narrowed(self, channels: int) -> TapLayout:
        """The same taps with no more than `channels` channels each."""
        return TapLayout(self.names, tuple(min(channels, width) for width in self.channels))

    @property
    def size(self) -> int:
        """Elements of a vector: 2 Σ_l C_l."""
        return 2 * self._offsets[-1]

    @property
    def taps(self) -> int:
        """Number of taps L."""
        return len(self.names)

    def spans(self) -> Iterator[tuple[str, slice, slice]]:
        """Each tap's name, and where its foreground and its background lie in the vector."""
        half = self._offsets[-1]
        for name, start, end in zip(self.names, self._offsets, self._offsets[1:], strict=False):
            yield name, slice(start, end), slice(half + start, half + end)

    def split(
        self, vectors: NDArray[Any]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Foreground and background by tap, each `(S, C_l)`, of vectors `(S, size)`; no copies.

        Raises:
            InvalidInput: if the rows are not of this layout's size.
        """
        self._check(vectors.shape)
        return (
            {name: vectors[:, fore] for name, fore, _ in self.spans()},
            {name: vectors[:, back] for name, _, back in self.spans()},
        )

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[-1] != self.size:
            raise InvalidInput(
                f"got an array of shape {shape} for a layout of channels {self.channels}; it must "
                f"be (sites, {self.size}): the foreground of every tap, then the background of "
                "every tap"
            )

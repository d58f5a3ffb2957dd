"""Where each tap's prototypes lie in the one vector that a site sends per step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fdfed.errors import InvalidInput

MAX_TAPS: Final = 256
MAX_ELEMENTS: Final = 1 << 18
"""Elements of a vector; the largest network here has 5,888. Keeps a frame below 2.1 MiB in fp64."""


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

    def pack(
        self,
        foreground: Mapping[str, Float[Tensor, " _"]],
        background: Mapping[str, Float[Tensor, " _"]],
    ) -> Float[Tensor, " size"]:
        """All prototypes, each `(C_l,)`, in one vector that stays connected to their graph.

        Raises:
            InvalidInput: if a tap is missing, unknown, or not of its width.
        """
        for part, prototypes in (("foreground", foreground), ("background", background)):
            found = {name: tuple(value.shape) for name, value in prototypes.items()}
            expected = {
                name: (width,) for name, width in zip(self.names, self.channels, strict=True)
            }
            if found != expected:
                raise InvalidInput(
                    f"the {part} prototypes to pack are {found} but the layout has {expected}; "
                    "pass the batch means of exactly the layout's taps"
                )
        return torch.cat(
            [foreground[name] for name in self.names] + [background[name] for name in self.names]
        )

    def unpack(
        self, vector: Float[Tensor, " size"]
    ) -> tuple[dict[str, Float[Tensor, " _"]], dict[str, Float[Tensor, " _"]]]:
        """Foreground and background by tap, each `(C_l,)`; views into `vector`.

        Raises:
            InvalidInput: if the vector is not of this layout's size.
        """
        self._check(tuple(vector.shape), axes=1)
        return (
            {name: vector[fore] for name, fore, _ in self.spans()},
            {name: vector[back] for name, _, back in self.spans()},
        )

    def split(
        self, vectors: NDArray[Any]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Foreground and background by tap, each `(S, C_l)`, of vectors `(S, size)`; no copies.

        Raises:
            InvalidInput: if the rows are not of this layout's size.
        """
        self._check(vectors.shape, axes=2)
        return (
            {name: vectors[:, fore] for name, fore, _ in self.spans()},
            {name: vectors[:, back] for name, _, back in self.spans()},
        )

    def _check(self, shape: tuple[int, ...], *, axes: int) -> None:
        if len(shape) != axes or shape[-1] != self.size:
            wanted = f"({self.size},)" if axes == 1 else f"(sites, {self.size})"
            raise InvalidInput(
                f"got an array of shape {shape} for a layout of channels {self.channels}; it must "
                f"be {wanted}: the foreground of every tap, then the background of every tap"
            )

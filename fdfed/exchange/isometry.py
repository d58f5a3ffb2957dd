"""A pseudo-random isometry of every tap's prototypes: p ↦ Q p + t, and the way back for cotangents.

    Q = H D₃ H D₂ H D₁ / n^{3/2},      n the next power of two of the tap's channels

H is Sylvester's Hadamard matrix and D diagonal with random signs; three rounds spread any one
coordinate over all of them (Andoni et al. 2015, arXiv:1509.02897, section 6, use the same product
as a stand-in for a uniform rotation). Distances are unchanged, so a loss that depends on distances
alone is unchanged too, and its cotangents come back as Q g.

The arithmetic is fp64 and every constant is an integer or a power of two's root, so that two
machines agree to rounding, about 1e-15, whatever their thread counts.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdfed.errors import InvalidInput
from fdfed.exchange.layout import TapLayout

ROUNDS: Final = 3
"""Factors H D; with one, a vector of one entry would stay recognisable by equal magnitudes."""
_TRANSLATION_BYTES: Final = 4
_TRANSLATION_OCTAVES: Final = 3.0
"""The spread of t's scale r: log-uniform over [1, 2³)."""


def padded_layout(layout: TapLayout) -> TapLayout:
    """The layout of the vectors that are sent: each tap's channels, to the next power of two.

    What it tells an onlooker is public in any case: the taps and their widths are the network's.
    """
    return TapLayout(layout.names, tuple(_next_power_of_two(c) for c in layout.channels))


@dataclass(frozen=True, slots=True)
class _Width:
    """The taps of one padded width: they are turned together."""

    width: int
    taps: NDArray[np.intp]
    entries: NDArray[np.intp]
    """`(taps, 2, width)`: where their foreground and background lie in the padded vector."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """What all isometries of one layout share."""

    layout: TapLayout
    padded: TapLayout
    places: NDArray[np.intp]
    """`(size,)`: where each entry of a plain vector lies in a padded one."""
    widths: tuple[_Width, ...]

    @property
    def stream_bytes(self) -> int:
        """Random bytes that one isometry is made of."""
        return sum(_stream_bytes(width) for width in self.padded.channels)


@functools.lru_cache(maxsize=16)
def geometry(layout: TapLayout) -> Geometry:
    """The geometry of `layout`; computed once."""
    padded = padded_layout(layout)
    places = np.empty(layout.size, dtype=np.intp)
    for (_, *plain), (_, *wide) in zip(layout.spans(), padded.spans(), strict=True):
        for source, target in zip(plain, wide, strict=True):
            places[source] = np.arange(target.start, target.start + source.stop - source.start)
    spans = [(fore, back) for _, fore, back in padded.spans()]
    widths = []
    for width in sorted(set(padded.channels)):
        taps = [tap for tap, channels in enumerate(padded.channels) if channels == width]
        rows = [[np.arange(part.start, part.stop) for part in spans[tap]] for tap in taps]
        widths.append(_Width(width, np.array(taps), np.array(rows)))
    return Geometry(layout, padded, places, tuple(widths))


class Isometry:
    """Q p + t of every tap, made from `Geometry.stream_bytes` random bytes.

    All sites make it from the same bytes. Each tap takes its own part of them:

        D₁, D₂, D₃   n bits each
        t            a scale r, log-uniform in [1, 8), and n numbers uniform in ±√3 r u

    so that |t| is about r u √n, with u = 1, or 1/√n for prototypes of unit length: comparable to
    what is hidden, so that fp32 keeps the differences, and random in scale, so that the length of
    what is sent says little about |p|.

    Args:
        unit_length: whether the prototypes are normalised. It decides how well the translation
            hides, never whether a result is right.

    Raises:
        InvalidInput: if the number of bytes is not the geometry's.
    """

    def __init__(self, shape: Geometry, stream: bytes, *, unit_length: bool = False) -> None:
        if len(stream) != shape.stream_bytes:
            raise InvalidInput(
                f"an isometry got {len(stream)} random bytes but its layout needs "
                f"{shape.stream_bytes}; draw them for this layout"
            )
        self._shape = shape
        parts = _per_tap(shape.padded, stream)
        self._signs = [
            np.stack([_signs(parts[tap], group.width) for tap in group.taps])
            for group in shape.widths
        ]
        self._translations = [
            np.stack([_translation(parts[tap], group.width, unit_length) for tap in group.taps])
            for group in shape.widths
        ]

    def blind(self, vector: NDArray[Any]) -> NDArray[np.float64]:
        """Q p + t for foreground and background of every tap, `(padded size,)`, in fp64."""
        wide = np.zeros(self._shape.padded.size)
        wide[self._shape.places] = vector
        for group, signs, t in zip(
            self._shape.widths, self._signs, self._translations, strict=True
        ):
            x = wide[group.entries]
            for turn in range(ROUNDS):
                x = _hadamard(x * signs[:, turn, None])
            wide[group.entries] = x * float(group.width) ** (-ROUNDS / 2) + t[:, None]
        return wide

    def unblind(self, cotangents: NDArray[Any]) -> NDArray[np.float64]:
        """Qᵀ g for every tap, `(padded size,)`, in fp64: t has no part in a derivative."""
        wide = cotangents.astype(np.float64)
        for group, signs in zip(self._shape.widths, self._signs, strict=True):
            x = wide[group.entries]
            for turn in reversed(range(ROUNDS)):
                x = _hadamard(x) * signs[:, turn, None]
            wide[group.entries] = x * float(group.width) ** (-ROUNDS / 2)
        return wide


def _hadamard(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """H x along the last axis, unnormalised, as two small products: H_ab = H_a ⊗ H_b."""
    width = x.shape[-1]
    a, b = _factors(width)
    folded = x.reshape(*x.shape[:-1], a, b)
    turned: NDArray[np.float64] = (_sylvester(a) @ folded @ _sylvester(b)).reshape(x.shape)
    return turned


def _factors(width: int) -> tuple[int, int]:
    bits = width.bit_length() - 1
    return 1 << (bits // 2), 1 << (bits - bits // 2)


@functools.cache
def _sylvester(order: int) -> NDArray[np.float64]:
    matrix = np.ones((1, 1))
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _sign_bytes(width: int) -> int:
    return -(-ROUNDS * width // 8)


def _stream_bytes(width: int) -> int:
    return _sign_bytes(width) + (1 + width) * _TRANSLATION_BYTES


def _per_tap(padded: TapLayout, stream: bytes) -> list[bytes]:
    parts, start = [], 0
    for width in padded.channels:
        parts.append(stream[start : start + _stream_bytes(width)])
        start += _stream_bytes(width)
    return parts


def _signs(part: bytes, width: int) -> NDArray[np.float64]:
    """`(ROUNDS, width)` of ±1."""
    bits = np.unpackbits(np.frombuffer(part, np.uint8, count=_sign_bytes(width)))
    signs: NDArray[np.float64] = 1.0 - 2.0 * bits[: ROUNDS * width].astype(np.float64)
    return signs.reshape(ROUNDS, width)


def _translation(part: bytes, width: int, unit_length: bool) -> NDArray[np.float64]:
    words = np.frombuffer(part, "<u4", offset=_sign_bytes(width))
    uniform = words.astype(np.float64) * 2.0**-32
    unit = width**-0.5 if unit_length else 1.0
    scale = unit * 2.0 ** (_TRANSLATION_OCTAVES * float(uniform[0]))
    t: NDArray[np.float64] = scale * math.sqrt(3.0) * (2.0 * uniform[1:] - 1.0)
    return t

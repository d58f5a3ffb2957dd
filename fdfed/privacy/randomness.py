"""The randomness that privacy rests on: noise, and who is drawn into a step.

In production it comes from the operating system, never from a seed: whoever can predict the noise
can subtract it, and whoever knows who was drawn has the guarantee without sampling.
"""

from __future__ import annotations

import math
import os
from typing import Final, Protocol, runtime_checkable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

_SUMMED: Final = 4
"""Gaussians that are added to make one."""


@runtime_checkable
class Randomness(Protocol):
    """Where a site's privacy takes its draws from."""

    def gaussian(self, count: int, *, std: float) -> NDArray[np.float64]:
        """`(count,)` independent draws from N(0, std²)."""
        ...

    def poisson_sample(self, count: int, *, rate: float) -> NDArray[np.intp]:
        """The numbers below `count` that are drawn, each with probability `rate`, alone."""
        ...

    def generator(self) -> np.random.Generator:
        """A generator for what no guarantee rests on, such as augmentation."""
        ...


class SystemRandomness:
    """Draws from the system's secure source.

    A fresh 256-bit key from `os.urandom` for every call is expanded by AES-256 in counter mode:
    there is no state that a fork or a second thread could share.

    A Gaussian is half the sum of four from Box & Muller's transform in fp64. Opacus' own secure
    mode does the same with a generator whose package no longer builds. The sum is there because
    floating-point numbers near a Gaussian sample have gaps, and a single sample's gaps can give
    away what it was added to (Mironov 2012; Jin et al. 2021, arXiv:2112.05307; the remedy is
    Holohan & Braghin 2021, arXiv:2107.10138, section 5.1). It makes that attack impractical, it is
    no proof: ε is that of real numbers, and rounding to the precision of the sum adds a little that
    no accountant counts. A single sample ends at 8.7 standard deviations, as its uniforms have 53
    bits.
    """

    def gaussian(self, count: int, *, std: float) -> NDArray[np.float64]:
        total = np.zeros(count)
        for _ in range(_SUMMED):
            total += _box_muller(_uniform(2 * math.ceil(count / 2)))[:count]
        return std / math.sqrt(_SUMMED) * total

    def poisson_sample(self, count: int, *, rate: float) -> NDArray[np.intp]:
        return np.flatnonzero(_uniform(count) < rate)

    def generator(self) -> np.random.Generator:
        return np.random.default_rng(int.from_bytes(os.urandom(32)))


def _uniform(count: int) -> NDArray[np.float64]:
    """Uniform on the middles of the 2⁵³ equal parts of (0, 1): never 0, never 1."""
    stream = Cipher(AES(os.urandom(32)), CTR(bytes(16))).encryptor().update(bytes(8 * count))
    parts: NDArray[np.uint64] = np.frombuffer(stream, dtype="<u8") >> np.uint64(11)
    # 2⁻⁵⁴ less than 1 has no fp64 number of its own; the last part is rounded into its own.
    uniform = (parts.astype(np.float64) + 0.5) * 2.0**-53
    return np.minimum(uniform, 1 - 2.0**-53)


def _box_muller(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard Gaussians, as many as the (even) number of uniforms."""
    radius_from, turn = np.split(uniform, 2)
    radius, angle = np.sqrt(-2 * np.log(radius_from)), 2 * np.pi * turn
    return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))

"""Seeded randomness in place of the system's, so that a test repeats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray


@dataclass
class Seeded:
    """Randomness from a seed; `noise` = 0 takes the noise away."""

    seed: int = 0
    noise: float = 1.0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def gaussian(self, count: int, *, std: float) -> NDArray[np.float64]:
        return self.noise * std * self.rng.standard_normal(count)

    def poisson_sample(self, count: int, *, rate: float) -> NDArray[np.intp]:
        return np.flatnonzero(self.rng.random(count) < rate)

    def generator(self) -> np.random.Generator:
        return self.rng


@pytest.fixture
def seeded() -> Callable[..., Seeded]:
    return Seeded

"""Prototypes with differential privacy, as an attacker receives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from fdfed.exchange import TapLayout
from fdfed.privacy.projection import project, projections
from fdfed.privacy.prototype_release import clipped, noisy_mean
from fdfed.studies.privacy.vectors import Array

DIMENSIONS: Final = 16
"""Of each tap after the public projection."""
NOISE_MULTIPLIER: Final = 1.0
MAX_NORM: Final = 1.0


class SeededRandomness:
    """Noise that repeats. For an attack study alone: whoever knows the seed subtracts it."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def gaussian(self, count: int, *, std: float) -> NDArray[np.float64]:
        """`(count,)` draws from N(0, std²)."""
        return self._rng.normal(scale=std, size=count)

    def poisson_sample(self, count: int, *, rate: float) -> NDArray[np.intp]:
        """The numbers below `count` that are drawn, each with probability `rate`."""
        return np.flatnonzero(self._rng.random(count) < rate)

    def generator(self) -> np.random.Generator:
        """The generator of the noise itself."""
        return self._rng


@dataclass(frozen=True, slots=True)
class DpRelease:
    """The library's own release: every tap projected to 16 dimensions, the joint vector of an image
    clipped to R = 1, noise of σ = 1, divided by a public n̄ (`fdfed.privacy.prototype_release`).
    Images are the unit here."""

    layout: TapLayout
    images: int
    """n̄."""
    seed: int

    def vectors(self, frames: Array) -> Array:
        """Every image's clipped joint vector, (n, d), of frames (n, size): what the attacker
        computes of a candidate."""
        maps = projections(self.layout, dimensions=DIMENSIONS, seed=self.seed)
        halves: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = ({}, {})
        for name, *spans in self.layout.spans():
            for half, span in zip(halves, spans, strict=True):
                half[name] = torch.from_numpy(frames[:, span])
        joint = torch.cat([project(maps, half) for half in halves], dim=1)
        return clipped(joint, max_norm=MAX_NORM).numpy()

    def released(
        self, vectors: Array, batches: Sequence[Sequence[int]], *, times: int = 1
    ) -> Array:
        """What leaves of each batch, (batches, d); the mean over so many releases of it, each with
        its own noise."""
        noise = SeededRandomness(self.seed)
        rows = torch.from_numpy(vectors)
        return np.stack(
            [
                np.mean(
                    [
                        noisy_mean(
                            rows[list(batch)],
                            max_norm=MAX_NORM,
                            noise_multiplier=NOISE_MULTIPLIER,
                            count=self.images,
                            randomness=noise,
                        )
                        for _ in range(times)
                    ],
                    axis=0,
                )
                for batch in batches
            ]
        )

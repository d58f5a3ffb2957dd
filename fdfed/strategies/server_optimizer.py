"""Averaging whose mean is a gradient for an optimiser at the coordinator: `fedavgm`, `fedadam`."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fdfed.config import ServerPlan
from fdfed.strategies.averaging import Arrays, Averaging

_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")
"""Buffers of a batch normalisation: measured, not trained. A momentum on a variance could make it
negative, so they take the mean as it is."""
_ROUND: Final = "round"
_FIRST: Final = "m."
_SECOND: Final = "v."


class ServerOptimizer(Averaging):
    """Takes the way from the old weights to the sites' mean as a step that it makes its own of.

    What it remembers is in fp64, and starts afresh in phase 2, as the sites' optimisers do.
    """

    own_rate: ClassVar[float]
    """η where the plan gives none."""

    def __init__(self, server: ServerPlan) -> None:
        self.server = server
        self.rate = self.own_rate if server.learning_rate is None else server.learning_rate

    def _advance(self, before: Arrays, mean: Arrays, memory: Arrays) -> tuple[Arrays, Arrays]:
        weights: dict[str, NDArray[Any]] = dict(mean)
        server_round = int(memory[_ROUND]) + 1 if memory else 1
        kept: dict[str, NDArray[Any]] = {_ROUND: np.array(server_round)}
        for name, old in before.items():
            if name.rpartition(".")[2] in _STATISTICS:
                continue
            way = mean[name].astype(np.float64) - old
            step = self._step(way, memory, kept, name=name, server_round=server_round)
            weights[name] = np.asarray(old + step, dtype=old.dtype)
        return weights, kept

    @abstractmethod
    def _step(
        self,
        way: NDArray[np.float64],
        memory: Arrays,
        kept: dict[str, NDArray[Any]],
        *,
        name: str,
        server_round: int,
    ) -> NDArray[np.float64]:
        """The step of one tensor from Δ = mean − old; puts what it remembers into `kept`."""


class ServerMomentum(ServerOptimizer):
    """`fedavgm`: v ← β v + Δ, W ← W + η v.

    Source: Hsu et al. 2019, arXiv:1909.06335, section 4, in the form of Flower's `FedAvgM`, which
    an update of several tensors is tested against.
    """

    own_rate: ClassVar[float] = 1.0

    def _step(
        self,
        way: NDArray[np.float64],
        memory: Arrays,
        kept: dict[str, NDArray[Any]],
        *,
        name: str,
        server_round: int,
    ) -> NDArray[np.float64]:
        first = way + self.server.momentum * memory.get(_FIRST + name, 0.0)
        kept[_FIRST + name] = np.asarray(first)
        return np.asarray(self.rate * first)


class ServerAdam(ServerOptimizer):
    """`fedadam`: m ← β₁ m + (1 − β₁) Δ, v ← β₂ v + (1 − β₂) Δ²,

        W ← W + η √(1 − β₂^(t+1)) / (1 − β₁^(t+1)) · m / (√v + τ)

    in round t of the phase, counted from 1, with m = v = 0 before it.

    Source: Reddi et al. 2021, arXiv:2003.00295, Algorithm 2, in the form of Flower's `FedAdam`: its
    correction of the first rounds, with t + 1, is not in the source.
    """

    own_rate: ClassVar[float] = 0.01

    def _step(
        self,
        way: NDArray[np.float64],
        memory: Arrays,
        kept: dict[str, NDArray[Any]],
        *,
        name: str,
        server_round: int,
    ) -> NDArray[np.float64]:
        beta_1, beta_2 = self.server.momentum, self.server.beta_2
        first = beta_1 * memory.get(_FIRST + name, 0.0) + (1 - beta_1) * way
        second = beta_2 * memory.get(_SECOND + name, 0.0) + (1 - beta_2) * way**2
        kept[_FIRST + name], kept[_SECOND + name] = np.asarray(first), np.asarray(second)
        corrected = np.sqrt(1 - beta_2 ** (server_round + 1)) / (1 - beta_1 ** (server_round + 1))
        return np.asarray(self.rate * corrected * first / (np.sqrt(second) + self.server.tau))

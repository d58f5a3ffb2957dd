"""A site with made-up images, and the instructions of its rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.data import SplitCounts
from fdfed.exchange import CotangentFrame, ExchangeStats, PrototypeFrame, StatsRecorder
from fdfed.training.initialise import initial_network
from fdfed.training.sharing import shared_names, take_tensors
from fdfed.training.site_state import SiteStore
from fdfed.wire import TrainInstruction, TrainResult
from fdfed_client.site import Site
from tests.plans import PHASED

RUN = "ab" * 8
TAPS = 9


@dataclass
class Images:
    """Images that are a function of the step, and as many test images as asked for."""

    test: int = 4
    phantoms: bool = False
    closed: list[str] = field(default_factory=list)

    @property
    def counts(self) -> SplitCounts:
        return SplitCounts(6, 3, self.test, 1)

    def training_batch(self, global_step: int) -> tuple[Tensor, Tensor]:
        return self._batch(global_step, 2)

    def training_patients(self, global_step: int) -> tuple[str, ...]:
        return ("one", "other")

    def evaluation_batches(self, part: str) -> Iterator[tuple[Tensor, Tensor, tuple[str, ...]]]:
        count = self.test if part == "test" else 3
        for number in range(count):
            yield *self._batch(100 + number, 1), (f"{part}-{number}",)

    @staticmethod
    def _batch(seed: int, count: int) -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed(seed)
        mask = torch.zeros(count, 1, 32, 32)
        top = 3 + seed % 9
        mask[:, :, top : top + 11, 7:20] = 1
        return 0.3 * torch.rand(count, 1, 32, 32, generator=rng) + 0.5 * mask, mask


@dataclass
class Hub:
    """Answers every step but those in `drops`, with cotangents of `value`."""

    value: float = 0.0
    drops: tuple[int, ...] = ()
    closed: bool = False
    recorder: StatsRecorder = field(default_factory=StatsRecorder)

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        if frame.key.step in self.drops:
            self.recorder.dropped(bytes_up=frame.nbytes)
            return None
        ones = np.ones(len(frame.valid))
        vector = np.full_like(frame.vector, self.value)
        answer = CotangentFrame(frame.key, vector, ones, ones, 1)
        self.recorder.answered(
            peers=1, seconds=0.001, bytes_up=frame.nbytes, bytes_down=answer.nbytes
        )
        return answer

    def take_stats(self) -> ExchangeStats:
        return self.recorder.take()

    def close(self) -> None:
        self.closed = True


def plan_of(**changes: object) -> RunPlan:
    values: dict[str, object] = {
        "sites": ["a", "b"],
        "width": 4,
        "in_channels": 1,
        "size": 32,
        "rounds": 4,
        "steps_per_round": 2,
        "loss": "fd",
    }
    return RunPlan.model_validate(PHASED | values | changes)


def site_of(folder: Path, *, images: Images | None = None, **changes: Any) -> Site:
    chosen = images or Images()
    return Site("a", lambda _: chosen, SiteStore(folder), **changes)


def instruction_of(plan: RunPlan, server_round: int = 1, **changes: Any) -> TrainInstruction:
    network = initial_network(plan)
    values: dict[str, Any] = {
        "plan": plan,
        "run_id": RUN,
        "server_round": server_round,
        "attempt": 1,
        "phase": plan.phase(server_round),
        "total_examples": 12,
        "best_round": server_round - 1,
        "alpha": np.zeros(TAPS),
        "target": None,
        "weights": take_tensors(network, shared_names(network, plan.strategy)),
    }
    return TrainInstruction(**(values | changes))


def bits(result: TrainResult) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in result.weights.items()}


def state_bits(site: Site) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in site.network.state_dict().items()}

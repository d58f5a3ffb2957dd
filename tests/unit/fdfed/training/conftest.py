"""A tiny plan, a site's images that are a pure function of the step, and a scripted hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.exchange import CotangentFrame, ExchangeStats, PrototypeFrame, StatsRecorder
from tests.plans import PHASED

Reply = Callable[[PrototypeFrame], CotangentFrame | None]


@dataclass(frozen=True)
class Images:
    """Two images a step, with a rectangle of foreground that moves with the step."""

    dtype: torch.dtype = torch.float32
    size: int = 32

    def training_batch(self, global_step: int) -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed(global_step)
        mask = torch.zeros(2, 1, self.size, self.size, dtype=self.dtype)
        top = 4 + global_step % 7
        mask[:, :, top : top + 12, 8:22] = 1
        noise = torch.rand(2, 1, self.size, self.size, generator=rng, dtype=self.dtype)
        return (0.3 * noise + 0.5 * mask).clamp(0, 1), mask

    def training_patients(self, global_step: int) -> tuple[str, ...]:
        return ("one", "other")


@dataclass
class ScriptedExchange:
    """Answers each frame as `reply` says, and counts as a real exchange does."""

    reply: Reply
    frames: list[PrototypeFrame] = field(default_factory=list)
    recorder: StatsRecorder = field(default_factory=StatsRecorder)

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        self.frames.append(frame)
        reply = self.reply(frame)
        if reply is None:
            self.recorder.dropped(bytes_up=frame.nbytes)
        else:
            self.recorder.answered(
                peers=reply.peers, seconds=0.0, bytes_up=frame.nbytes, bytes_down=reply.nbytes
            )
        return reply

    def take_stats(self) -> ExchangeStats:
        return self.recorder.take()

    def close(self) -> None: ...


def cotangents(frame: PrototypeFrame, value: float = 0.0, *, terms: float = 1.0) -> CotangentFrame:
    """A reply of one peer whose cotangents all are `value` and whose terms all are `terms`."""
    taps = len(frame.valid)
    return CotangentFrame(
        frame.key, np.full_like(frame.vector, value), np.full(taps, terms), np.full(taps, terms), 1
    )


@pytest.fixture
def plan_of() -> Callable[..., RunPlan]:
    """Makes a plan that trains in milliseconds."""

    def make(**changes: object) -> RunPlan:
        values: dict[str, object] = {
            "sites": ["a", "b"],
            "width": 4,
            "in_channels": 1,
            "size": 32,
            "rounds": 4,
            "steps_per_round": 2,
            "batch_size": 2,
        }
        return RunPlan.model_validate(PHASED | values | changes)

    return make


@pytest.fixture
def images() -> type[Images]:
    return Images


@pytest.fixture
def scripted() -> Callable[[Reply], ScriptedExchange]:
    return ScriptedExchange


@pytest.fixture
def reply() -> Callable[..., CotangentFrame]:
    return cotangents


@pytest.fixture
def dropping() -> Callable[[Sequence[int]], ScriptedExchange]:
    """A hub that drops the steps named, and answers all others with zeros."""

    def make(steps: Sequence[int]) -> ScriptedExchange:
        return ScriptedExchange(lambda f: None if f.key.step in steps else cotangents(f))

    return make

"""`precision = auto`: the numbers and the memory layout with which this device trains fastest.

bf16 halves the memory that is read, but a processor without instructions for it is slower there
than in fp32; channels-last memory suits most convolutions and few transformers. So both are
measured, by a few training steps of the network itself on the device itself. Since the choice
follows the clock, a run with it is not repeated bit for bit by another.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.networks import SegmentationNetwork
from fdfed.training.local_round import make_optimizer
from fdfed.training.step import step_losses

_TURNS: Final = 3
"""Timed steps of each setting; the fastest counts, for other programs can only slow one down."""
_BUDGET_SECONDS: Final = 30.0
"""No turn after the first is begun later than this."""
_MARGIN: Final = 0.95
"""A setting must take less than this share of the usual one's time to be chosen instead: what is
gained by less is lost in the noise, and fp32 is the more exact."""


class Setting(NamedTuple):
    """How a network is computed."""

    precision: Literal["fp32", "amp"]
    channels_last: bool

    def __str__(self) -> str:
        return f"{self.precision}, {'channels last' if self.channels_last else 'channels first'}"


USUAL: Final = Setting("fp32", channels_last=True)
_SETTINGS: Final = (
    USUAL,
    Setting("fp32", channels_last=False),
    Setting("amp", channels_last=True),
    Setting("amp", channels_last=False),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The fastest setting, and what each one took."""

    setting: Setting
    seconds: Mapping[Setting, float]
    """A training step of each."""

    def __str__(self) -> str:
        steps = "; ".join(f"{setting} {1e3 * s:.0f} ms" for setting, s in self.seconds.items())
        return f"{self.setting} (a step takes: {steps})"


_choices: dict[tuple[object, ...], Choice] = {}
_MEASURING: Final = threading.Lock()
"""One measurement at a time: two at once would measure each other."""


def fastest_setting(
    plan: RunPlan, network: SegmentationNetwork, image: Tensor, mask: Tensor
) -> Choice:
    """The setting in which a step of L_seg is fastest, measured on copies of `network`.

    Neither the network nor a generator is changed. One process measures once for networks and
    batches that are alike on one device: sites that are simulated together choose alike.

    Args:
        image: a training batch `(n, c, h, w)` on the device to measure.
        mask: its annotation.
    """
    key = (plan.network, plan.width, plan.norm, plan.optimizer, image.shape, image.device)
    with _MEASURING:
        if key not in _choices:
            _choices[key] = choose(_measure(plan, network, image, mask))
        return _choices[key]


def choose(seconds: Mapping[Setting, float]) -> Choice:
    """The fastest setting; the usual one unless another is clearly faster."""
    best = min(seconds, key=lambda setting: seconds[setting])
    clear = seconds[best] < _MARGIN * seconds[USUAL]
    return Choice(best if clear else USUAL, seconds)


def lay_out_(network: SegmentationNetwork, *, channels_last: bool) -> None:
    """Gives the weights that memory layout, in place."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs lack it


def _measure(
    plan: RunPlan, network: SegmentationNetwork, image: Tensor, mask: Tensor
) -> dict[Setting, float]:
    network = copy.deepcopy(network).train()
    device = image.device
    began, seconds = time.perf_counter(), dict.fromkeys(_SETTINGS, float("inf"))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for turn in range(_TURNS):
            if turn and time.perf_counter() - began > _BUDGET_SECONDS:
                break
            # Turn by turn, not setting by setting: a machine that is busy for a while then slows
            # down all of them.
            for setting in _SETTINGS:
                lay_out_(network, channels_last=setting.channels_last)
                step = _step_of(plan, setting, network, image, mask)
                # In the first step kernels are chosen and the optimiser's moments are made.
                step()
                seconds[setting] = min(seconds[setting], _timed(step, device))
    return seconds


def _step_of(
    plan: RunPlan, setting: Setting, network: SegmentationNetwork, image: Tensor, mask: Tensor
) -> Callable[[], None]:
    chosen = plan.model_copy(update={"precision": setting.precision})
    optimizer = make_optimizer(network, plan)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses = step_losses(network, image, mask, plan=chosen, alpha=None, remote=None)
        losses.objective.backward()
        optimizer.step()

    return step


def _timed(work: Callable[[], None], device: torch.device) -> float:
    _wait_for(device)
    began = time.perf_counter()
    work()
    _wait_for(device)
    return time.perf_counter() - began


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""`precision = auto`: what is measured, what is chosen, and what it leaves untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fdfed.config import RunPlan
from fdfed.networks import TapSink, UNet
from fdfed.training import fastest
from fdfed.training.fastest import USUAL, Setting, choose, fastest_setting, lay_out_
from fdfed.training.initialise import initial_network

PlanOf = Callable[..., RunPlan]
AMP = Setting("amp", channels_last=True)
FIRST = Setting("fp32", channels_last=False)


@pytest.fixture(autouse=True)
def no_choice_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "_choices", {})


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({USUAL: 1.0, AMP: 0.5, FIRST: 0.9}, AMP),
        ({USUAL: 1.0, AMP: 2.0, FIRST: 0.9}, FIRST),
        ({USUAL: 1.0, AMP: 0.96, FIRST: 0.97}, USUAL),  # within the noise
        ({USUAL: 1.0, AMP: 3.0, FIRST: 1.5}, USUAL),
    ],
)
def test_the_fastest_setting_is_chosen_where_it_is_clearly_faster(
    seconds: dict[Setting, float], chosen: Setting
) -> None:
    assert choose(seconds).setting == chosen


def test_a_measurement_changes_neither_the_network_nor_a_generator(
    plan_of: PlanOf, images: Any
) -> None:
    plan = plan_of(precision="auto")
    network = initial_network(plan)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    state, training = torch.random.get_rng_state(), network.training
    choice = fastest_setting(plan, network, *images().training_batch(0))
    assert set(choice.seconds) == set(fastest._SETTINGS)
    assert all(0 < seconds < 60 for seconds in choice.seconds.values())
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training == training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_each_setting_is_what_its_step_computes_in(
    plan_of: PlanOf, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.dtype, bool]] = []
    forward = UNet._forward

    def watched(self: UNet, image: torch.Tensor, taps: TapSink) -> torch.Tensor:
        logits = forward(self, image, taps)
        weight = self.encoders[1].get_parameter(
            next(iter(dict(self.encoders[1].named_parameters())))
        )
        seen.append((logits.dtype, weight.is_contiguous(memory_format=torch.channels_last)))
        return logits

    monkeypatch.setattr(UNet, "_forward", watched)
    plan = plan_of(precision="auto")
    fastest_setting(plan, initial_network(plan), *images().training_batch(0))
    turn = [(dtype, last) for dtype in (torch.float32, torch.bfloat16) for last in (True, False)]
    # A first step that is not timed, and the one that is.
    assert seen == [setting for _ in range(3) for setting in turn for _ in range(2)]


def test_sites_of_one_process_measure_once_and_choose_alike(
    plan_of: PlanOf, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(precision="auto")
    first = fastest_setting(plan, initial_network(plan), *images().training_batch(0))
    monkeypatch.setattr(fastest, "_measure", lambda *_: pytest.fail("measured again"))
    again = plan_of(precision="auto", seed=1)
    assert fastest_setting(again, initial_network(again), *images().training_batch(3)) is first


def test_a_slow_machine_makes_one_turn(
    plan_of: PlanOf, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    monkeypatch.setattr(fastest, "_BUDGET_SECONDS", 0.0)
    timed = fastest._timed
    monkeypatch.setattr(fastest, "_timed", lambda *a: (steps.append(1), timed(*a))[1])
    plan = plan_of(precision="auto")
    fastest_setting(plan, initial_network(plan), *images().training_batch(0))
    assert len(steps) == len(fastest._SETTINGS)


def test_the_log_says_what_each_setting_took() -> None:
    text = str(choose({USUAL: 0.2, AMP: 0.05}))
    assert text == (
        "amp, channels last (a step takes: fp32, channels last 200 ms; amp, channels last 50 ms)"
    )


def test_a_layout_is_given_and_taken_back_without_a_change_of_value(plan_of: PlanOf) -> None:
    network, plain = initial_network(plan_of()), initial_network(plan_of())
    for last in (True, False):
        lay_out_(network, channels_last=last)
        weight = next(p for p in network.parameters() if p.ndim == 4 and min(p.shape[:2]) > 1)
        assert weight.is_contiguous(memory_format=torch.channels_last) == last
        for got, expected in zip(network.parameters(), plain.parameters(), strict=True):
            assert torch.equal(got, expected)


def test_a_run_that_must_repeat_bit_for_bit_refuses_what_follows_the_clock(
    plan_of: PlanOf,
) -> None:
    with pytest.raises(ValidationError, match="follows the clock"):
        plan_of(precision="auto", exchange={"blinding": "deterministic"})

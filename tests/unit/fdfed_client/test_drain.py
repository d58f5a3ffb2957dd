"""An agent that is told to stop in the middle of its work."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from fdfed.wire import EvaluateInstruction
from fdfed_client.drain import AgentStopped, Drain
from fdfed_client.egress import is_public, public_reason
from tests.unit.fdfed_client.site_rounds import bits, instruction_of, plan_of, site_of


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_work_under_way_goes_on_for_its_time_and_no_longer() -> None:
    stop, clock = threading.Event(), Clock()
    drain = Drain(stop, seconds=60, clock=clock)
    drain.check()
    clock.now += 1000
    drain.check()
    stop.set()
    drain.check()
    clock.now += 59.9
    drain.check()
    clock.now += 0.1
    with pytest.raises(AgentStopped, match="drain_seconds = 60"):
        drain.check()


def test_no_time_at_all_ends_the_work_at_its_next_step() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(AgentStopped):
        Drain(stop, seconds=0).check()


def test_a_round_that_was_given_up_leaves_nothing_and_is_trained_anew_to_the_same_bits(
    tmp_path: Path,
) -> None:
    stop, plan = threading.Event(), plan_of()
    drain = Drain(stop, seconds=0)
    site = site_of(tmp_path / "stopped", on_step=lambda *_: drain.check())
    first = site.train(instruction_of(plan, 1))
    stop.set()
    with pytest.raises(AgentStopped):
        site.train(instruction_of(plan, 2))
    back = site_of(tmp_path / "stopped")
    again = back.train(replace(instruction_of(plan, 2), attempt=2))
    undisturbed = site_of(tmp_path / "undisturbed")
    assert bits(undisturbed.train(instruction_of(plan, 1))) == bits(first)
    assert bits(undisturbed.train(instruction_of(plan, 2))) == bits(again)


def test_scoring_many_images_can_be_given_up_too(tmp_path: Path) -> None:
    stop, plan = threading.Event(), plan_of()
    drain, scored = Drain(stop, seconds=0), [0]

    def on_batch() -> None:
        scored[0] += 1
        drain.check()
        stop.set()

    site = site_of(tmp_path, on_batch=on_batch)
    asked = instruction_of(plan)
    with pytest.raises(AgentStopped):
        site.evaluate(
            EvaluateInstruction(
                plan=plan,
                run_id=asked.run_id,
                server_round=1,
                part="test",
                weights=asked.weights,
            )
        )
    assert scored == [2]


def test_the_coordinator_is_told_that_the_agent_stops_and_no_more() -> None:
    reason = public_reason(AgentStopped("in /data/anna"))
    assert is_public(reason)
    assert "told to stop" in reason
    assert "anna" not in reason

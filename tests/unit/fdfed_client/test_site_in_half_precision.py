"""A site's rounds whose changes leave in 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fdfed.errors import InvalidInput
from fdfed.training.site_state import SiteStore
from fdfed.wire import TrainResult
from tests.unit.fdfed_client.site_rounds import (
    RUN,
    bits,
    instruction_of,
    plan_of,
    site_of,
)


def numbers_of(result: TrainResult) -> dict[str, np.ndarray]:
    """What was sent under `bf16`, in fp64."""
    return {
        name: (value.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        for name, value in result.weights.items()
        if value.dtype == np.uint16
    }


def test_what_a_site_sends_in_half_precision_adds_up_to_what_it_trained(tmp_path: Path) -> None:
    plan, whole = plan_of(rounds=6, update_precision="bf16"), plan_of(rounds=6)
    site, other = site_of(tmp_path / "one"), site_of(tmp_path / "other")
    arrived: dict[str, np.ndarray] = {}
    trained: dict[str, np.ndarray] = {}
    for server_round in (1, 2, 3):
        message = instruction_of(plan, server_round)
        sent = site.train(message)
        # The same training, since the coordinator sends the same weights every time here.
        weights = other.train(instruction_of(whole, server_round)).weights
        assert sent.weights.keys() == weights.keys()
        for name, number in numbers_of(sent).items():
            change = weights[name].astype(np.float64) - message.weights[name]
            arrived[name] = arrived.get(name, 0) + number
            trained[name] = trained.get(name, 0) + change
    assert arrived.keys() == dict(site.network.named_parameters()).keys()
    record = SiteStore(tmp_path / "one").load(RUN, 3)
    assert record is not None
    residual = record.part("residual")
    for name, number in arrived.items():
        np.testing.assert_allclose(trained[name] - number, residual[name], rtol=0, atol=1e-8)
    largest = max(float(left.abs().max()) for left in residual.values())
    assert 1e-6 < largest < 1e-4  # half a spacing of bf16 at changes of up to 0.004
    for name, value in sent.weights.items():
        if name not in arrived:  # running statistics and counters
            np.testing.assert_array_equal(value, weights[name])


def test_a_round_in_half_precision_is_answered_again_alike_also_by_a_new_process(
    tmp_path: Path,
) -> None:
    plan = plan_of(rounds=6, update_precision="fp16")
    site = site_of(tmp_path)
    site.train(instruction_of(plan, 1))
    first = site.train(instruction_of(plan, 2))
    without = site_of(tmp_path / "elsewhere").train(instruction_of(plan, 2))
    assert bits(first) != bits(without), "the residual of round 1 is in round 2"
    assert bits(site.train(instruction_of(plan, 2, attempt=2))) == bits(first)
    # The coordinator was killed before it saved round 2, and the agent with it.
    restarted = site_of(tmp_path)
    assert bits(restarted.train(instruction_of(plan, 2, attempt=3))) == bits(first)
    third = restarted.train(instruction_of(plan, 3))
    assert bits(site.train(instruction_of(plan, 3, attempt=2))) == bits(third)


def test_phase_2_begins_without_a_residual(tmp_path: Path) -> None:
    plan = plan_of(update_precision="bf16")  # phases 1 1 1 2
    one, other = site_of(tmp_path / "one"), site_of(tmp_path / "other")
    for server_round in (1, 2, 3):
        one.train(instruction_of(plan, server_round))
    sent = one.train(instruction_of(plan, 4))
    assert bits(sent) == bits(other.train(instruction_of(plan, 4)))


def test_a_round_that_cannot_be_rounded_leaves_the_record_before_it(tmp_path: Path) -> None:
    plan = plan_of(update_precision="fp16", learning_rate=1e5)
    site = site_of(tmp_path)
    with pytest.raises(InvalidInput, match="learning_rate"):
        site.train(instruction_of(plan))
    assert SiteStore(tmp_path).rounds(RUN) == []

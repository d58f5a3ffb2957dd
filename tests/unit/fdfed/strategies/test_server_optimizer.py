"""The coordinator's optimisers: worked by hand, and against Flower's own over several rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvgM
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fdfed.config import ServerPlan
from fdfed.strategies import create_strategy
from fdfed_server.flower import set_task_identity

Weights = dict[str, NDArray[Any]]


def test_momentum_adds_what_is_left_of_the_last_step() -> None:
    strategy = create_strategy("fedavgm", ServerPlan(momentum=0.5, learning_rate=0.1))
    start, mean = {"w": np.array([1.0])}, {"w": np.array([3.0])}
    # Δ = 2, v = 2, W = 1 + 0.1 · 2.
    first, memory = strategy.advance(start, mean, {})
    assert first["w"] == pytest.approx(1.2)
    # Δ = 3 - 1.2 = 1.8, v = 0.5 · 2 + 1.8 = 2.8, W = 1.2 + 0.28.
    second, _ = strategy.advance(first, mean, memory)
    assert second["w"] == pytest.approx(1.48)


def test_adam_divides_by_the_root_of_the_mean_square() -> None:
    plan = ServerPlan(momentum=0.5, beta_2=0.75, tau=1.0, learning_rate=0.1)
    strategy = create_strategy("fedadam", plan)
    # Δ = 4, m = 2, v = 0.25 · 16 = 4; correction √(1 - 0.75²) / (1 - 0.5²) = √0.4375 / 0.75.
    weights, _ = strategy.advance({"w": np.array([1.0])}, {"w": np.array([5.0])}, {})
    expected = 1 + 0.1 * (0.4375**0.5 / 0.75) * 2 / (2 + 1)
    assert weights["w"] == pytest.approx(expected)


def by_flower(strategy: FedAvgM | FedAdam, start: Weights, means: list[Weights]) -> Weights:
    """What Flower's strategy makes of one site's weights in every round; of the mean, then."""
    set_task_identity(task_id=1, run_id=1, node_id=1)
    arrays = ArrayRecord({name: Array(value) for name, value in start.items()})
    for number, mean in enumerate(means, start=1):
        if isinstance(strategy, FedAdam):
            strategy.current_arrays = {name: array.numpy() for name, array in arrays.items()}
        else:
            strategy.current_arrays = arrays
        content = RecordDict(
            {
                "arrays": ArrayRecord({n: Array(v) for n, v in mean.items()}),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        sent = Message(RecordDict(), dst_node_id=1, message_type="train")
        found, _ = strategy.aggregate_train(number, [Message(content, reply_to=sent)])
        assert found is not None
        arrays = found
    return {name: array.numpy() for name, array in arrays.items()}


@pytest.mark.parametrize("name", ["fedavgm", "fedadam"])
def test_four_rounds_end_where_flowers_own_strategy_ends(name: str) -> None:
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 2), "b": (4,)}
    start = {n: rng.standard_normal(shape) for n, shape in shapes.items()}
    means = [{n: rng.standard_normal(shape) for n, shape in shapes.items()} for _ in range(4)]
    flower: FedAvgM | FedAdam
    if name == "fedavgm":
        flower = FedAvgM(server_learning_rate=0.7, server_momentum=0.9)
        plan = ServerPlan(learning_rate=0.7, momentum=0.9)
    else:
        flower = FedAdam(eta=0.05, beta_1=0.8, beta_2=0.95, tau=1e-2)
        plan = ServerPlan(learning_rate=0.05, momentum=0.8, beta_2=0.95, tau=1e-2)
    weights, memory = dict(start), dict[str, NDArray[Any]]()
    strategy = create_strategy(name, plan)
    for mean in means:
        weights, memory = strategy.advance(weights, mean, memory)
    expected = by_flower(flower, start, means)
    for key, value in expected.items():
        np.testing.assert_allclose(weights[key], value, rtol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_without_momentum_and_at_rate_one_the_mean_comes_next(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, mean = ({"w": rng.standard_normal(5)} for _ in range(2))
    strategy = create_strategy("fedavgm", ServerPlan(momentum=0.0, learning_rate=1.0))
    memory: Weights = {}
    for _ in range(3):
        weights, memory = strategy.advance(before, mean, memory)
        np.testing.assert_allclose(weights["w"], mean["w"], rtol=1e-12, atol=1e-12)
        before = weights


@pytest.mark.parametrize("name", ["fedavgm", "fedadam"])
def test_running_statistics_and_counters_take_the_mean_as_it_is(name: str) -> None:
    before = {
        "norm.running_var": np.array([1.0], dtype=np.float32),
        "norm.num_batches_tracked": np.array(3),
        "norm.weight": np.array([1.0], dtype=np.float32),
    }
    mean = {
        "norm.running_var": np.array([1e-6], dtype=np.float32),
        "norm.num_batches_tracked": np.array(4),
        "norm.weight": np.array([2.0], dtype=np.float32),
    }
    strategy, weights, memory = create_strategy(name), dict(before), dict[str, NDArray[Any]]()
    for _ in range(3):
        weights, memory = strategy.advance(weights, mean, memory)
    assert weights["norm.running_var"] == mean["norm.running_var"]
    assert weights["norm.num_batches_tracked"] == 4
    assert weights["norm.weight"] != mean["norm.weight"]
    assert not any("running" in key for key in memory)

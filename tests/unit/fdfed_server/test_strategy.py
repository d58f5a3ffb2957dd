"""The strategy: instructions out, replies in, and their sum."""

from __future__ import annotations

import itertools

import numpy as np

from fdfed.strategies import Arrays, Averaging
from fdfed.wire import TrainInstruction
from tests.unit.fdfed_server.strategy_rounds import (
    EXAMPLES,
    RUN,
    TAPS,
    bits,
    concluded,
    replies_of,
    strategy_of,
    train,
)


class HalfWay(Averaging):
    """Half of the way to the mean, and a memory of how many rounds it was asked."""

    def _advance(self, before: Arrays, mean: Arrays, memory: Arrays) -> tuple[Arrays, Arrays]:
        weights = {
            name: before[name] + (value - before[name]) / before[name].dtype.type(2)
            if value.dtype.kind == "f"
            else value
            for name, value in mean.items()
        }
        return weights, {"rounds": memory.get("rounds", np.array(0)) + np.array([1])}


def test_every_site_gets_the_state_and_the_sum_of_all_examples() -> None:
    strategy = strategy_of()
    state = strategy.initial_state(RUN)
    instructions = strategy.configure_train(state, 1, 2, {"a": 10, "c": 60})
    assert set(instructions) == {"a", "c"}
    for instruction in instructions.values():
        assert instruction.total_examples == 70
        assert (instruction.server_round, instruction.attempt, instruction.phase) == (1, 2, 1)
        assert instruction.weights is state.model.weights
        assert instruction.run_id == RUN


def test_a_run_begins_with_the_seeded_weights_and_no_alpha() -> None:
    state = strategy_of().initial_state(RUN)
    assert bits(state.model.weights) == bits(strategy_of().initial_state(RUN).model.weights)
    other = strategy_of(seed=1).initial_state(RUN)
    assert bits(state.model.weights) != bits(other.model.weights)
    np.testing.assert_array_equal(state.model.alpha, np.zeros(TAPS))
    assert state.model.target is None
    assert (state.completed_rounds, state.best.server_round) == (0, 0)


def test_the_aggregate_is_the_mean_weighted_by_examples_as_worked_by_hand() -> None:
    strategy = strategy_of(precision="fp64")
    state = strategy.initial_state(RUN)
    trained = train(strategy, state)
    # Moves +0.01, -0.01 and +0.005 of 10, 30 and 60 of 100 examples:
    # 0.1 · 0.01 - 0.3 · 0.01 + 0.6 · 0.005 = 0.001
    for name, value in trained.model.weights.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, state.model.weights[name] + 0.001, atol=1e-12)


def test_a_strategy_makes_the_next_weights_of_the_mean_and_drift_is_of_the_updates() -> None:
    plain, half = strategy_of(precision="fp64"), strategy_of(precision="fp64")
    half._averaging = HalfWay()
    state = plain.initial_state(RUN)
    mean, between = train(plain, state), train(half, state)
    for name, value in mean.model.weights.items():
        if value.dtype.kind == "f":
            expected = (state.model.weights[name] + value) / 2
            np.testing.assert_allclose(between.model.weights[name], expected)
    assert between.drift == mean.drift


def test_what_a_strategy_remembers_goes_from_round_to_round_and_is_gone_in_phase_2() -> None:
    strategy = strategy_of(rounds=4, loss="fd")
    strategy._averaging = HalfWay()
    state, seen = strategy.initial_state(RUN), []
    for server_round in range(1, 5):
        state = concluded(strategy, state, server_round, dict.fromkeys(EXAMPLES, 0.5))
        seen.append(state.model.memory.get("rounds", np.zeros(1)).tolist())
    # Three rounds of phase 1, whose end forgets; then one of phase 2.
    assert seen == [[1], [2], [0], [1]]


def test_counters_of_batch_normalisation_stay_integers_through_a_round() -> None:
    strategy = strategy_of(norm="batch")
    state = strategy.initial_state(RUN)
    state = concluded(strategy, state, 1, {"a": 0.5})
    record = strategy.configure_train(state, 2, 1, EXAMPLES)["a"].to_record()
    got = TrainInstruction.from_record(record).weights
    counters = [name for name in got if name.endswith("num_batches_tracked")]
    assert counters
    for name in counters:
        assert got[name].dtype == np.int64
        assert got[name].shape == ()
        assert got[name] == 2


def test_the_order_of_sites_alone_decides_the_bits_of_the_sum() -> None:
    strategy = strategy_of()
    state = strategy.initial_state(RUN)
    first, again = train(strategy, state), train(strategy, state)
    assert bits(first.model.weights) == bits(again.model.weights)
    # Another order of summands may differ in the last bit, never in more.
    for order in itertools.permutations(replies_of(state)):
        other = strategy.aggregate_train(state, 1, 1, EXAMPLES, order)
        for name, value in other.model.weights.items():
            np.testing.assert_allclose(value, first.model.weights[name], rtol=1e-6, atol=1e-9)


def test_updates_of_the_sites_that_stay_at_home_have_no_drift() -> None:
    strategy = strategy_of(strategy="local", loss="seg")
    state = strategy.initial_state(RUN)
    trained = train(strategy, state)
    assert trained.model.weights == {}
    assert trained.drift is None
    assert all(entry.drift is None for entry in trained.sites.values())


def test_bytes_and_exchange_totals_are_those_worked_by_hand() -> None:
    strategy = strategy_of()
    state = strategy.initial_state(RUN)
    size = sum(value.nbytes for value in state.model.weights.values())
    state = concluded(strategy, state, 1, {"a": 0.5, "b": 0.5, "c": 0.5})
    record = state.history[0]
    # Up: three updates, and 100 B of frames each. Down: three times the weights to train from and
    # three times the aggregate to score, and 90 B of frames each.
    assert record.bytes.up == 3 * size + 300
    assert record.bytes.down == 6 * size + 270
    assert [stats.steps for stats in state.exchanges] == [2, 2, 2]

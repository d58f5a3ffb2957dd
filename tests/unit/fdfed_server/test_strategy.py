"""The strategy: instructions out, replies in, the next state."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput, QuorumNotMet
from fdfed.evaluation.metrics import Aggregate
from fdfed.exchange import ExchangeStats
from fdfed.strategies import Arrays, Averaging
from fdfed.wire import EvaluateResult, TrainInstruction, TrainResult
from fdfed_server.run_state import RunState
from fdfed_server.site_reply import SiteReply
from fdfed_server.strategy import Strategy
from fdfed_server.trained_round import TrainedRound

RUN = "cd" * 8
EXAMPLES = {"a": 10, "b": 30, "c": 60}
TAPS = 9


def plan_of(**changes: object) -> RunPlan:
    values: dict[str, object] = {
        "sites": list(EXAMPLES),
        "width": 4,
        "in_channels": 1,
        "size": 32,
        "rounds": 4,
        "quorum": 2,
    }
    return RunPlan.model_validate(values | changes)


def strategy_of(**changes: object) -> Strategy:
    return Strategy(plan_of(**changes))


def result_of(state: RunState, site: str, server_round: int = 1, **changes: Any) -> TrainResult:
    """The state's own weights, a little moved, and plausible numbers."""
    number = list(EXAMPLES).index(site)
    shift = {"a": 1.0, "b": -1.0, "c": 0.5}[site]
    weights = {
        n: (w + 2 if w.dtype.kind == "i" else w + w.dtype.type(0.01 * shift))
        for n, w in state.model.weights.items()
    }
    values: dict[str, Any] = {
        "run_id": state.run_id,
        "server_round": server_round,
        "attempt": 1,
        "num_examples": EXAMPLES[site],
        "loss_seg": 0.5 + number,
        "seconds": 1.0,
        "alpha": np.zeros(TAPS),
        "fd": np.full(TAPS, 1.0 + number),
        "exch": np.full(TAPS, 0.5),
        "valid": np.ones(TAPS),
        "exchange": ExchangeStats(steps=2, answered=2, peers_mean=2.0, bytes_up=100, bytes_down=90),
        "weights": weights,
    }
    return TrainResult(**(values | changes))


def replies_of(state: RunState, server_round: int = 1, **changes: Any) -> list[SiteReply]:
    """A good reply of every site; `changes` replaces the reply or the fields of the sites named."""
    replies = []
    for site in EXAMPLES:
        change = changes.get(site, {})
        if isinstance(change, SiteReply):
            replies.append(change)
        else:
            record = result_of(state, site, **{"server_round": server_round} | change).to_record()
            replies.append(SiteReply(site=site, record=record))
    return replies


def train(
    strategy: Strategy, state: RunState, server_round: int = 1, **changes: Any
) -> TrainedRound:
    replies = replies_of(state, server_round, **changes)
    return strategy.aggregate_train(state, server_round, 1, EXAMPLES, replies)


def scores(server_round: int, state: RunState, **dice: float | None) -> dict[str, EvaluateResult]:
    def aggregate(value: float) -> Aggregate:
        return Aggregate(5, 0, value, 0.1, np.nan, np.nan, np.nan)

    return {
        site: EvaluateResult(
            run_id=state.run_id,
            server_round=server_round,
            part="validation",
            dice=None if value is None else aggregate(value),
            iou=None if value is None else aggregate(value / 2),
        )
        for site, value in dice.items()
    }


def concluded(
    strategy: Strategy,
    state: RunState,
    server_round: int,
    dice: Mapping[str, float | None],
    **changes: Any,
) -> RunState:
    trained = train(strategy, state, server_round, **changes)
    return strategy.conclude(state, trained, scores(server_round, state, **dice), seconds=1.0)


def bits(weights: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in weights.items()}


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


# --- instructions


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


# --- aggregation


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


# --- refusals


def garbled(state: RunState, site: str, **header: Any) -> SiteReply:
    record = result_of(state, site).to_record()
    entries = dict(record["fdfed"])  # type: ignore[arg-type]
    record["fdfed"] = ConfigRecord(entries | header)
    return SiteReply(site=site, record=record)


def weights_with(state: RunState, change: Any) -> dict[str, Any]:
    weights = dict(result_of(state, "b").weights)
    name = next(iter(weights))
    weights[name] = change(weights[name])
    return {"weights": weights}


def first_entry(value: float) -> Any:
    def change(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        changed.flat[0] = value
        return changed

    return change


REFUSALS: dict[str, tuple[Any, str]] = {
    "a value that is no number": (
        lambda s: weights_with(s, first_entry(np.nan)),
        "holds values that are not finite",
    ),
    "an infinity": (
        lambda s: weights_with(s, first_entry(np.inf)),
        "holds values that are not finite",
    ),
    "another shape": (lambda s: weights_with(s, lambda w: w[:1]), "of the update is float32"),
    "another type": (
        lambda s: weights_with(s, lambda w: w.astype(np.float64)),
        "of the update is float64",
    ),
    "a tensor too few": (
        lambda s: {"weights": dict(list(result_of(s, "b").weights.items())[1:])},
        "lacks or adds tensors",
    ),
    "a counter below zero": (
        lambda s: {
            "weights": {
                n: (w * 0 - 1 if w.dtype.kind == "i" else w)
                for n, w in result_of(s, "b").weights.items()
            }
        },
        "the counter .* is not in 0 to",
    ),
    "other examples than announced": (lambda _: {"num_examples": 31}, "announced 30"),
    "another round": (lambda _: {"server_round": 2}, "answers another round"),
    "another attempt": (lambda _: {"attempt": 2}, "answers another round"),
    "another run": (lambda _: {"run_id": "ef" * 8}, "answers another round"),
    "losses of another network": (lambda _: {"fd": np.zeros(3)}, "fd does not have one entry"),
    "an α too long": (lambda _: {"alpha": np.zeros(10)}, "alpha does not have one entry"),
    "a loss without bound": (
        lambda _: {"fd": np.full(TAPS, 1e300)},
        "fd holds values that are not finite, or not within",
    ),
    "a time without bound": (lambda _: {"seconds": 1e300}, "seconds is 1e.300, not within"),
    "a foreign record": (
        lambda _: SiteReply(site="b", record=RecordDict({"x": ConfigRecord({"y": 1})})),
        "without its 'fdfed' part",
    ),
    "no record": (lambda _: SiteReply(site="b", record=None, failure="node gone"), "node gone"),
    "another format": (lambda s: garbled(s, "b", format=2), "a message of format 2"),
    "another kind": (lambda s: garbled(s, "b", kind="evaluated"), "got 'evaluated'"),
    "a key too many": (lambda s: garbled(s, "b", patient="1"), "lacks or adds the keys"),
}


# Checking the type of a mapping reads one of its values, and so meets the refusal too early.
NOT_FINITE = ("a value that is no number", "an infinity")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.bad_input] if case in NOT_FINITE else [])
        for case in REFUSALS
    ],
)
def test_a_reply_that_does_not_fit_is_named_and_the_round_goes_on_without_it(case: str) -> None:
    spoil, reason = REFUSALS[case]
    strategy = strategy_of()
    state = strategy.initial_state(RUN)
    trained = train(strategy, state, b=spoil(state))
    assert trained.accepted == ("a", "c")
    refused = trained.sites["b"].refused
    assert refused is not None
    assert re.search(reason, refused), refused
    assert trained.sites["a"].refused is None
    # What is left is the mean of the others: nothing of the refused one has entered.
    others = strategy.aggregate_train(
        state, 1, 1, EXAMPLES, [r for r in replies_of(state) if r.site != "b"]
    )
    assert bits(trained.model.weights) == bits(others.model.weights)
    assert "b" not in others.sites


@pytest.mark.parametrize("accepted", [0, 1, 2, 3])
def test_fewer_sites_than_the_quorum_are_never_a_round(accepted: int) -> None:
    strategy = strategy_of()
    state = strategy.initial_state(RUN)
    gone = {
        site: SiteReply(site=site, record=None, failure="node unavailable")
        for site in list(EXAMPLES)[accepted:]
    }
    if accepted >= 2:
        assert len(train(strategy, state, **gone).accepted) == accepted
        return
    with pytest.raises(QuorumNotMet, match=rf"{accepted} site\(s\) entered, 2 are needed") as err:
        train(strategy, state, **gone)
    assert err.value.exit_code == 4
    for site in gone:
        assert f"{site}: node unavailable" in str(err.value)


def test_the_quorum_counts_the_sites_of_the_plan_and_not_those_that_were_asked() -> None:
    strategy = strategy_of(quorum=None)  # all three
    state = strategy.initial_state(RUN)
    replies = replies_of(state)[:2]
    with pytest.raises(QuorumNotMet, match="2 site"):
        strategy.aggregate_train(state, 1, 1, {"a": 10, "b": 30}, replies)


def test_replies_are_read_one_at_a_time_and_their_weights_are_not_kept() -> None:
    strategy = strategy_of()
    state = strategy.initial_state(RUN)
    seen: list[str] = []

    def one_by_one() -> Any:
        for reply in replies_of(state):
            seen.append(reply.site)
            yield reply

    trained = strategy.aggregate_train(state, 1, 1, EXAMPLES, one_by_one())
    assert seen == list(EXAMPLES)
    assert not any(hasattr(entry, "weights") for entry in trained.sites.values())


@pytest.mark.parametrize(
    ("stats", "accepted"),
    [
        ({}, True),
        ({"answered": 1, "dropped": 1}, False),
        ({"peers_mean": 1.5}, False),
        ({"peers_mean": 0.0}, False),
    ],
)
def test_where_the_exchange_is_required_every_step_has_the_terms_of_all_peers(
    stats: dict[str, float], accepted: bool
) -> None:
    strategy = strategy_of(rounds=6, steps_per_round=2, exchange={"required": True})
    state = in_phase_2(strategy)
    exchange = replace(ExchangeStats(steps=2, answered=2, peers_mean=2.0), **stats)
    trained = train(strategy, state, strategy.plan.phase_1_rounds + 1, b={"exchange": exchange})
    refused = trained.sites["b"].refused
    assert (refused is None) == accepted
    assert accepted or "exchange.required = true" in refused
    # In phase 1 there is nothing to exchange.
    assert train(strategy, strategy.initial_state(RUN), b={"exchange": exchange}).accepted == (
        *("a", "b", "c"),
    )


@pytest.mark.parametrize(
    ("stats", "text"),
    [
        ({"answered": 1}, "1 steps answered and 0 dropped of 2"),
        ({"dropped": 2}, "2 steps answered and 2 dropped of 2"),
        ({"staleness_mean": -0.5, "staleness_max": 1}, "the plan allows 2"),
        ({"staleness_mean": 1.5, "staleness_max": 1}, "1.5 steps late in the mean"),
        ({"staleness_mean": 1.0, "staleness_max": 3}, "3 at most, where the plan allows 2"),
    ],
)
def test_an_account_of_the_exchange_that_does_not_hold_together_is_refused(
    stats: dict[str, float], text: str
) -> None:
    strategy = strategy_of(rounds=6, steps_per_round=2, exchange={"max_staleness": 2})
    exchange = replace(ExchangeStats(steps=2, answered=2, peers_mean=2.0), **stats)
    server_round = strategy.plan.phase_1_rounds + 1
    trained = train(strategy, in_phase_2(strategy), server_round, b={"exchange": exchange})
    assert text in str(trained.sites["b"].refused)
    assert trained.accepted == ("a", "c")


def test_a_round_records_how_late_each_sites_replies_were() -> None:
    strategy = strategy_of(rounds=6, steps_per_round=2, exchange={"max_staleness": 2})
    exchange = ExchangeStats(
        steps=2, answered=1, dropped=1, peers_mean=2.0, staleness_mean=2.0, staleness_max=2
    )
    server_round = strategy.plan.phase_1_rounds + 1
    entry = train(strategy, in_phase_2(strategy), server_round, b={"exchange": exchange}).sites["b"]
    assert (entry.answered, entry.dropped) == (1, 1)
    assert (entry.staleness_mean, entry.staleness_max) == (2.0, 2)


# --- bytes and exchange


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


# --- α


def in_phase_2(strategy: Strategy) -> RunState:
    state = strategy.initial_state(RUN)
    for server_round in range(1, strategy.plan.phase_1_rounds + 1):
        state = concluded(strategy, state, server_round, dict.fromkeys(EXAMPLES, 0.5))
    return state


def test_the_first_round_of_phase_2_sets_the_target_of_the_dual_update() -> None:
    strategy = strategy_of(rounds=6)
    state = in_phase_2(strategy)
    assert state.model.target is None
    first = strategy.plan.phase_1_rounds + 1
    proposal = {"alpha": np.full(TAPS, 0.002)}
    trained = train(strategy, state, first, a=proposal, b=proposal, c=proposal)
    # L = fd + exch = 1.5, 2.5 and 3.5 with weights 0.1, 0.3, 0.6: 3.0; less the margin 0.5.
    np.testing.assert_allclose(trained.model.target, np.full(TAPS, 2.5))
    np.testing.assert_allclose(trained.model.alpha, np.full(TAPS, 0.002))
    np.testing.assert_array_equal(trained.alpha_used, np.zeros(TAPS))
    state = strategy.conclude(state, trained, {}, seconds=1.0)
    later = train(strategy, state, first + 1, a={"fd": np.full(TAPS, 9.0)})
    np.testing.assert_array_equal(later.model.target, trained.model.target)


def test_a_tap_that_was_not_measured_has_its_target_from_the_first_round_that_measures_it() -> None:
    strategy = strategy_of(rounds=6)
    state = in_phase_2(strategy)
    first = strategy.plan.phase_1_rounds + 1
    blind = np.full(TAPS, 1.0)
    blind[3] = np.nan
    changes = {site: {"fd": blind} for site in EXAMPLES}
    trained = train(strategy, state, first, **changes)
    assert np.flatnonzero(np.isnan(trained.model.target)).tolist() == [3]
    state = strategy.conclude(state, trained, {}, seconds=1.0)
    later = train(strategy, state, first + 1)
    expected = trained.model.target.copy()
    expected[3] = 2.5  # as in the test above
    np.testing.assert_allclose(later.model.target, expected)


def test_alpha_is_the_clipped_mean_of_the_proposals_by_examples() -> None:
    strategy = strategy_of(rounds=6)
    state = in_phase_2(strategy)
    proposals = {
        "a": {"alpha": np.full(TAPS, 0.01)},
        "b": {"alpha": np.full(TAPS, -0.01)},
        "c": {"alpha": np.array([0.005, 1.0, -1.0, *np.zeros(TAPS - 3)])},
    }
    trained = train(strategy, state, strategy.plan.phase_1_rounds + 1, **proposals)
    # 0.1 · 0.01 - 0.3 · 0.01 = -0.002, and 0.6 times c's: 0.001, 0.598, -0.602, -0.002 …
    expected = np.array([0.001, 0.01, 0.0, *np.zeros(TAPS - 3)])
    np.testing.assert_allclose(trained.model.alpha, expected, atol=1e-15)


@pytest.mark.parametrize("loss", ["seg", "fd+exch"])
def test_alpha_does_not_move_in_phase_1(loss: str) -> None:
    strategy = strategy_of(loss=loss)
    state = strategy.initial_state(RUN)
    trained = train(strategy, state, a={"alpha": np.ones(TAPS)})
    np.testing.assert_array_equal(trained.model.alpha, np.zeros(TAPS))
    assert trained.model.target is None


def test_one_sites_extreme_losses_leave_alpha_within_its_bounds_and_the_target_finite() -> None:
    strategy = strategy_of(rounds=6)
    state = in_phase_2(strategy)
    huge = {"fd": np.full(TAPS, 1e12), "exch": np.full(TAPS, 1e12), "alpha": np.full(TAPS, 1e12)}
    trained = train(strategy, state, strategy.plan.phase_1_rounds + 1, b=huge)
    assert np.isfinite(trained.model.target).all()
    assert (trained.model.alpha <= strategy.plan.alpha.maximum).all()


# --- phases and the best round


def test_phase_2_starts_from_the_best_weights_of_phase_1_with_the_starting_alpha() -> None:
    strategy = strategy_of(rounds=5, loss="fd", alpha={"mode": "fixed", "value": 0.003})
    assert strategy.plan.phase_1_rounds == 3
    state = strategy.initial_state(RUN)
    weights = {}
    for server_round, dice in ((1, 0.5), (2, 0.7), (3, 0.6)):
        trained = train(strategy, state, server_round)
        weights[server_round] = bits(trained.model.weights)
        state = strategy.conclude(
            state,
            trained,
            scores(server_round, state, **dict.fromkeys(EXAMPLES, dice)),
            seconds=1.0,
        )
    assert len({str(value) for value in weights.values()}) == 3
    assert bits(state.model.weights) == weights[2]
    np.testing.assert_array_equal(state.model.alpha, np.full(TAPS, 0.003))
    assert state.best.server_round == 2
    assert state.warm_start_round == 2
    # Every round of phase 2 takes its place, also one that scores less.
    state = concluded(strategy, state, 4, dict.fromkeys(EXAMPLES, 0.1))
    assert (state.best.server_round, state.best.score) == (4, pytest.approx(0.1))
    state = concluded(strategy, state, 5, dict.fromkeys(EXAMPLES, 0.05))
    assert state.best.server_round == 4
    assert state.warm_start_round == 2


def test_without_the_warm_start_alpha_moves_from_the_first_round_on() -> None:
    strategy = strategy_of(rounds=3, warm_start=False, alpha={"taps": ["Enc1", "Bot"]})
    assert [strategy.plan.phase(n) for n in (1, 2, 3)] == [2, 2, 2]
    proposal = {"alpha": np.full(TAPS, 0.002)}
    state = strategy.initial_state(RUN)
    trained = train(strategy, state, 1, a=proposal, b=proposal, c=proposal)
    weighed = [tap in ("Enc1", "Bot") for tap in strategy.taps]
    np.testing.assert_allclose(trained.model.alpha, np.where(weighed, 0.002, 0.0))
    assert trained.model.target is not None
    state = strategy.conclude(state, trained, {}, seconds=1.0)
    assert state.warm_start_round is None


@pytest.mark.parametrize("mode", ["fixed", "ramp", "dual"])
def test_a_tap_that_alpha_leaves_out_stays_at_zero_in_every_mode(mode: str) -> None:
    strategy = strategy_of(
        rounds=4, alpha={"mode": mode, "value": 0.01, "maximum": 0.01, "taps": ["Dec4"]}
    )
    state = in_phase_2(strategy)
    proposal = {"alpha": np.full(TAPS, 0.01)}
    first = strategy.plan.phase_1_rounds + 1
    trained = train(strategy, state, first, a=proposal, b=proposal, c=proposal)
    for alpha in (state.model.alpha, trained.model.alpha):
        assert not alpha[:-1].any()
    assert trained.model.alpha[-1] > 0


@pytest.mark.bad_input
def test_a_tap_that_the_network_lacks_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"names Dec9; the network's are Enc1, Enc2"):
        strategy_of(alpha={"taps": ["Enc1", "Dec9"]})


def test_a_run_of_the_segmentation_loss_has_one_phase() -> None:
    strategy = strategy_of(loss="seg", rounds=2)
    state = strategy.initial_state(RUN)
    for server_round, dice in ((1, 0.7), (2, 0.6)):
        state = concluded(strategy, state, server_round, dict.fromkeys(EXAMPLES, dice))
    assert state.finished
    assert state.best.server_round == 1
    assert state.warm_start_round is None
    assert bits(state.model.weights) != bits(state.best.model.weights)


def test_the_best_round_is_that_of_the_unweighted_mean_of_validation_dice() -> None:
    strategy = strategy_of(loss="seg")
    state = strategy.initial_state(RUN)
    # Unweighted 0.6 and 0.5; weighted by examples the second would be higher (0.37 and 0.72).
    state = concluded(strategy, state, 1, {"a": 0.9, "b": 0.7, "c": 0.2})
    state = concluded(strategy, state, 2, {"a": 0.1, "b": 0.5, "c": 0.9})
    assert state.best.server_round == 1
    assert state.best.score == pytest.approx(0.6)


def test_without_any_validation_score_the_newest_round_stands_in_for_the_best() -> None:
    strategy = strategy_of(loss="seg")
    state = strategy.initial_state(RUN)
    for server_round in (1, 2, 3):
        state = concluded(strategy, state, server_round, dict.fromkeys(EXAMPLES))
        assert state.best.server_round == server_round
        assert state.history[-1].mean_val_dice is None


def test_a_round_whose_scores_were_lost_does_not_displace_the_best() -> None:
    strategy = strategy_of(loss="seg")
    state = strategy.initial_state(RUN)
    state = concluded(strategy, state, 1, dict.fromkeys(EXAMPLES, 0.5))
    state = concluded(strategy, state, 2, {})
    assert (state.best.server_round, state.best.score) == (1, pytest.approx(0.5))
    assert state.site_best == dict.fromkeys(EXAMPLES, (1, 0.5))


def test_a_round_that_is_not_to_be_scored_is_no_candidate() -> None:
    strategy = strategy_of(loss="seg", evaluate_every=2)
    state = strategy.initial_state(RUN)
    for server_round, best in ((1, 0), (2, 2), (3, 2), (4, 4)):
        dice = {} if server_round % 2 else dict.fromkeys(EXAMPLES, 0.5)
        state = concluded(strategy, state, server_round, dice)
        assert state.best.server_round == best


def test_sites_without_a_common_model_have_each_its_own_best_round() -> None:
    strategy = strategy_of(strategy="local", loss="seg")
    state = strategy.initial_state(RUN)
    state = concluded(strategy, state, 1, {"a": 0.5, "b": 0.6, "c": None})
    state = concluded(strategy, state, 2, {"a": 0.7, "b": 0.1, "c": None})
    gone = SiteReply(site="a", record=None, failure="gone")
    state = concluded(strategy, state, 3, {"b": 0.2, "c": None}, a=gone)
    assert {site: entry[0] for site, entry in state.site_best.items()} == {"a": 2, "b": 1, "c": 3}
    tests = strategy.configure_test(state)
    assert {site: message.server_round for site, message in tests.items()} == {
        "a": 2,
        "b": 1,
        "c": 3,
    }
    instructions = strategy.configure_train(state, 4, 1, EXAMPLES)
    assert {site: message.best_round for site, message in instructions.items()} == {
        "a": 2,
        "b": 1,
        "c": 3,
    }


def test_the_common_test_is_of_the_best_model() -> None:
    strategy = strategy_of(loss="seg", rounds=2)
    state = strategy.initial_state(RUN)
    for server_round, dice in ((1, 0.7), (2, 0.6)):
        state = concluded(strategy, state, server_round, dict.fromkeys(EXAMPLES, dice))
    for message in strategy.configure_test(state).values():
        assert (message.server_round, message.part) == (1, "test")
        assert message.weights is state.best.model.weights


# --- scores


def reply_of(result: EvaluateResult, site: str) -> SiteReply:
    return SiteReply(site=site, record=result.to_record())


def test_scores_that_answer_another_question_are_left_out() -> None:
    strategy = strategy_of()
    state = strategy.initial_state(RUN)
    good = scores(3, state, a=0.5)["a"]
    replies = [
        reply_of(good, "a"),
        reply_of(replace(good, server_round=2), "b"),
        reply_of(replace(good, part="test"), "c"),
        reply_of(replace(good, run_id="ef" * 8), "d"),
        SiteReply(site="e", record=None, failure="gone"),
        SiteReply(site="f", record=RecordDict()),
    ]
    assert set(strategy.aggregate_evaluate(RUN, 3, "validation", replies)) == {"a"}


def test_withheld_scores_arrive_as_none() -> None:
    strategy = strategy_of()
    state = strategy.initial_state(RUN)
    withheld = scores(1, state, a=None)["a"]
    got = strategy.aggregate_evaluate(RUN, 1, "validation", [reply_of(withheld, "a")])
    assert got["a"].dice is None
    assert got["a"].iou is None

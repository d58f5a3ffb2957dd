"""Rounds whose updates travel as changes in half precision, at the coordinator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fdfed.config import RunPlan
from fdfed.exchange import ExchangeStats
from fdfed.wire import HalfPrecision, TrainResult, changes_of
from fdfed_server.run_state import RunState
from fdfed_server.site_reply import SiteReply
from fdfed_server.strategy import Strategy
from fdfed_server.trained_round import TrainedRound
from tests.plans import PHASED

EXAMPLES = {"a": 10, "b": 20, "c": 30}
TAPS = 9
Arrays = dict[str, np.ndarray]


def strategy_of(**changes: Any) -> Strategy:
    plan = {"sites": list(EXAMPLES), "width": 4, "in_channels": 1, "size": 32, "quorum": 2}
    return Strategy(RunPlan.model_validate(PHASED | plan | {"update_precision": "bf16"} | changes))


def trained_of(state: RunState) -> frozenset[str]:
    return frozenset(n for n, w in state.model.weights.items()
                     if w.dtype.kind == "f" and "running" not in n)  # fmt: skip


def weights_at(state: RunState, site: str) -> Arrays:
    rng = np.random.default_rng(ord(site))
    return {
        name: value + 10
        if value.dtype.kind == "i"
        else (value + 0.003 * rng.random(value.shape)).astype(np.float32)
        for name, value in state.model.weights.items()
    }


def reply_of(state: RunState, site: str, weights: Arrays) -> SiteReply:
    result = TrainResult(
        run_id=state.run_id, server_round=1, attempt=1, num_examples=EXAMPLES[site],
        loss_seg=0.5, seconds=1.0, alpha=np.zeros(TAPS), fd=np.ones(TAPS), exch=np.ones(TAPS),
        valid=np.ones(TAPS), exchange=ExchangeStats(), weights=weights,
    )  # fmt: skip
    return SiteReply(site=site, record=result.to_record())


def round_of(strategy: Strategy, state: RunState, sent: dict[str, Arrays]) -> TrainedRound:
    replies = [reply_of(state, site, weights) for site, weights in sent.items()]
    return strategy.aggregate_train(state, 1, 1, EXAMPLES, replies)


def changes(state: RunState, precision: HalfPrecision) -> dict[str, Arrays]:
    trained = trained_of(state)
    return {
        site: changes_of(
            weights_at(state, site), state.model.weights, {}, trained=trained, precision=precision
        )[0]
        for site in EXAMPLES
    }


@pytest.mark.parametrize("aggregation", ["plain", "robust"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_round_is_that_of_the_rounded_weights_and_of_half_their_bytes(
    precision: HalfPrecision, aggregation: str
) -> None:
    strategy = strategy_of(update_precision=precision, aggregation=aggregation, quorum=3)
    full = strategy_of(update_precision="full", aggregation=aggregation, quorum=3)
    state = strategy.initial_state("ab" * 8)
    trained = trained_of(state)
    sent = changes(state, precision)
    got = round_of(strategy, state, sent)
    # The same weights, sent whole: G + q, each computed here.
    whole = {}
    for site, weights in sent.items():
        whole[site] = dict(weights)
        for name in trained:
            q = weights[name]
            if precision == "bf16":
                q = (q.astype(np.uint32) << 16).view(np.float32)
            whole[site][name] = state.model.weights[name] + q.astype(np.float32)
    expected = round_of(full, full.initial_state("ab" * 8), whole)
    assert got.accepted == expected.accepted == tuple(EXAMPLES)
    for name, value in expected.model.weights.items():
        np.testing.assert_array_equal(got.model.weights[name], value, err_msg=name)
    assert got.drift == expected.drift
    saved = 2 * sum(state.model.weights[name].size for name in trained)
    assert got.traffic.up == expected.traffic.up - 3 * saved
    assert got.traffic.up < 0.52 * expected.traffic.up
    assert got.traffic.down == expected.traffic.down


def test_a_site_that_sends_its_weights_whole_under_such_a_plan_is_refused_by_name() -> None:
    strategy = strategy_of()
    state = strategy.initial_state("ab" * 8)
    sent = changes(state, "bf16") | {"b": weights_at(state, "b")}
    got = round_of(strategy, state, sent)
    assert got.accepted == ("a", "c")
    assert "with update_precision = bf16 it is uint16" in str(got.sites["b"].refused)


@pytest.mark.parametrize("bits", [0x7F80, 0xFFC1])  # ∞ and a NaN
def test_a_change_that_is_not_finite_leaves_no_trace_in_the_sum(bits: int) -> None:
    strategy = strategy_of()
    state = strategy.initial_state("ab" * 8)
    sent = changes(state, "bf16")
    name = sorted(trained_of(state))[-1]
    broken = sent["b"] | {name: np.full_like(sent["b"][name], bits)}
    got = round_of(strategy, state, sent | {"b": broken})
    assert "not finite" in str(got.sites["b"].refused)
    expected = round_of(strategy, state, {site: sent[site] for site in ("a", "c")})
    for key, value in expected.model.weights.items():
        np.testing.assert_array_equal(got.model.weights[key], value)


def test_a_huge_change_is_held_to_the_bound_like_any_other() -> None:
    strategy = strategy_of()
    state = strategy.initial_state("ab" * 8)
    sent = changes(state, "bf16")
    trained = trained_of(state)
    # 2⁷ to a bf16's exponent: 128 times as long.
    long = {n: v + (7 << 7) if n in trained else v for n, v in sent["b"].items()}
    got = round_of(strategy, state, sent | {"b": long})
    assert "comes from" in str(got.sites["b"].refused)
    assert got.accepted == ("a", "c")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"aggregation": "masked"}, "saves nothing with aggregation = masked"),
        ({"strategy": "local", "loss": "fd"}, "strategy = local sends no weights"),
        ({"precision": "fp64"}, "rounds what precision = fp64 is there to keep"),
    ],
)
def test_a_plan_in_which_half_precision_has_no_meaning_is_refused(
    other: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        strategy_of(**other)


def test_the_plan_survives_its_canonical_text_and_its_hash_tells_the_precisions_apart() -> None:
    plans = [strategy_of(update_precision=p).plan for p in ("full", "fp16", "bf16")]
    assert [RunPlan.from_json(plan.to_json()) for plan in plans] == plans
    assert len({plan.digest for plan in plans}) == 3

"""Replies that do not fit: named, and the round goes on without them while a quorum is left."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from fdfed.errors import QuorumNotMet
from fdfed.exchange import ExchangeStats
from fdfed_server.run_state import RunState
from fdfed_server.site_reply import SiteReply
from tests.unit.fdfed_server.strategy_rounds import (
    EXAMPLES,
    RUN,
    TAPS,
    bits,
    in_phase_2,
    replies_of,
    result_of,
    strategy_of,
    train,
)


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

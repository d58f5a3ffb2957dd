"""The strategy with masked updates: the plain fixed-point mean of all sites, or no round at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fdfed.config import RunPlan
from fdfed.errors import QuorumNotMet
from fdfed.exchange import ExchangeStats
from fdfed.privacy import ContributionLayout, KeyContext, MaskingKey, Measures, Signer
from fdfed.wire import MaskedResult, TrainResult
from fdfed_server.run_state import RunState
from fdfed_server.site_reply import SiteReply
from fdfed_server.strategy import Strategy
from fdfed_server.trained_round import TrainedRound
from tests.plans import PHASED

RUN = "cd" * 8
EXAMPLES = {"a": 10, "b": 30, "c": 60}
SHIFTS = {"a": 1.0, "b": -1.0, "c": 0.5}
TAPS = 9
STATS = ExchangeStats(steps=2, answered=2, peers_mean=2.0, bytes_up=100, bytes_down=90)


def plan_of(**changes: object) -> RunPlan:
    values: dict[str, object] = {
        "sites": list(EXAMPLES),
        "width": 4,
        "in_channels": 1,
        "size": 32,
        "rounds": 4,
        "aggregation": "masked",
        "quorum": 2,
    }
    return RunPlan.model_validate(PHASED | values | changes)


def weights_of(state: RunState, site: str) -> dict[str, np.ndarray]:
    shift = 0.01 * SHIFTS[site]
    # `asarray`, since NumPy makes a scalar of the sum with an array without dimensions.
    return {
        n: np.asarray(w + 2 if w.dtype.kind == "i" else w + w.dtype.type(shift))
        for n, w in state.model.weights.items()
    }


def measures_of(site: str) -> Measures:
    number = list(EXAMPLES).index(site)
    fd = np.full(TAPS, 1.0 + number)
    fd[0] = np.nan if site == "a" else fd[0]
    fd[1] = np.nan
    alpha = np.full(TAPS, 0.001 * number)
    exch = np.full(TAPS, 0.5)
    return Measures(loss_seg=0.5 + number, alpha=alpha, fd=fd, exch=exch, total=fd + exch)


def values_of(state: RunState) -> dict[str, np.ndarray]:
    """Each site's masked numbers, under keys of one attempt."""
    signers = Signer.circle(list(EXAMPLES))
    context = KeyContext(roster=signers["a"].roster, run_id=RUN, server_round=1, attempt=1)
    keys = {site: MaskingKey(signer, context) for site, signer in signers.items()}
    announced = [key.announcement for key in keys.values()]
    layout = ContributionLayout.of(state.model.weights, taps=TAPS)
    sent = {}
    for site, key in keys.items():
        values = layout.contribution(
            weights_of(state, site), measures_of(site), num_examples=EXAMPLES[site]
        )
        key.masks(announced, inputs=b"")[0].add_(values)
        sent[site] = values
    return sent


def replies_of(state: RunState, server_round: int = 1, **changes: Any) -> list[SiteReply]:
    replies = []
    for site, values in values_of(state).items():
        result = MaskedResult(
            run_id=RUN,
            server_round=server_round,
            attempt=1,
            seconds=1.5,
            exchange=STATS,
            values=values,
        )
        change = changes.get(site, {})
        if isinstance(change, SiteReply):
            replies.append(change)
        else:
            replies.append(SiteReply(site=site, record=replace(result, **change).to_record()))
    return replies


def train(
    strategy: Strategy, state: RunState, server_round: int = 1, **changes: Any
) -> TrainedRound:
    replies = replies_of(state, server_round, **changes)
    return strategy.aggregate_train(state, server_round, 1, EXAMPLES, replies)


def plain_round(state: RunState, server_round: int = 1) -> TrainedRound:
    """What the same updates give with plain aggregation."""
    replies = []
    for site, n in EXAMPLES.items():
        measures = measures_of(site)
        result = TrainResult(
            run_id=RUN,
            server_round=server_round,
            attempt=1,
            num_examples=n,
            loss_seg=measures.loss_seg,
            seconds=1.5,
            alpha=measures.alpha,
            fd=measures.fd,
            exch=measures.exch,
            valid=np.ones(TAPS),
            exchange=STATS,
            weights=weights_of(state, site),
        )
        replies.append(SiteReply(site=site, record=result.to_record()))
    strategy = Strategy(plan_of(aggregation="plain"))
    return strategy.aggregate_train(state, server_round, 1, EXAMPLES, replies)


def state_of(strategy: Strategy) -> RunState:
    return strategy.initial_state(RUN)


@pytest.mark.parametrize("name", ["fdfed", "fedavg", "fedprox", "fedbn"])
def test_the_mean_is_the_plain_one_to_the_rounding_of_the_fixed_point(name: str) -> None:
    strategy = Strategy(plan_of(strategy=name, precision="fp64"))
    state = state_of(strategy)
    got = train(strategy, state)
    # Moves of 0.1 · 0.01 - 0.3 · 0.01 + 0.6 · 0.005 = 0.001, as in test_strategy.
    assert list(got.model.weights) == list(state.model.weights)
    for key, value in got.model.weights.items():
        assert value.dtype == state.model.weights[key].dtype
        assert value.shape == state.model.weights[key].shape
        if value.dtype.kind == "f":
            expected = state.model.weights[key] + 0.001
            np.testing.assert_allclose(value, expected, atol=2.0**-26 + 1e-15)
        else:
            np.testing.assert_array_equal(value, state.model.weights[key] + 2)


def test_alpha_target_and_losses_are_those_of_the_plain_round() -> None:
    strategy = Strategy(plan_of())
    state = state_of(strategy)
    server_round = strategy.plan.phase_1_rounds + 1
    got, expected = train(strategy, state, server_round), plain_round(state, server_round)
    atol = 2.0**-25
    np.testing.assert_allclose(got.model.alpha, expected.model.alpha, atol=atol)
    assert got.model.alpha.max() > 0
    assert got.model.target is not None
    assert expected.model.target is not None
    np.testing.assert_allclose(got.model.target, expected.model.target, atol=atol)
    assert np.isnan(got.model.target[1])
    for tap, loss in expected.losses.items():
        for mine, other in ((got.losses[tap].fd, loss.fd), (got.losses[tap].exch, loss.exch)):
            assert mine == (None if other is None else pytest.approx(other, abs=atol))
    assert got.loss_seg == pytest.approx(expected.loss_seg, abs=atol)
    assert got.exchanges == expected.exchanges


def test_what_needs_a_single_update_is_absent_and_not_made_up() -> None:
    strategy = Strategy(plan_of())
    state = state_of(strategy)
    trained = train(strategy, state)
    assert trained.drift is None
    for site, entry in trained.sites.items():
        assert (entry.loss_seg, entry.loss_fd, entry.drift) == (None, None, None)
        assert (entry.num_examples, entry.seconds) == (EXAMPLES[site], 1.5)
    record = strategy.conclude(state, trained, {}, seconds=1.0).history[-1]
    assert record.loss_seg == pytest.approx(0.1 * 0.5 + 0.3 * 1.5 + 0.6 * 2.5, abs=1e-6)


def test_the_traffic_counts_eight_bytes_a_number() -> None:
    strategy = Strategy(plan_of())
    state = state_of(strategy)
    size = sum(w.size for w in state.model.weights.values()) + 2 + 7 * TAPS
    assert train(strategy, state).traffic.up == 3 * (8 * size + STATS.bytes_up)


def test_the_order_in_which_the_state_holds_its_tensors_changes_no_bit() -> None:
    strategy = Strategy(plan_of())
    state = state_of(strategy)
    first = train(strategy, state)
    model = replace(state.model, weights=dict(reversed(state.model.weights.items())))
    second = train(strategy, replace(state, model=model))
    for name, value in first.model.weights.items():
        assert second.model.weights[name].tobytes() == value.tobytes()


def one_more(values: np.ndarray) -> np.ndarray:
    return np.append(values, np.uint64(0))


VOID: dict[str, tuple[Callable[[RunState], Any], str]] = {
    "a site that does not answer": (
        lambda _: SiteReply(site="b", record=None, failure="no reply before the deadline"),
        r"it is void, and trained anew \(b: no reply before the deadline\)",
    ),
    "another attempt": (lambda _: {"attempt": 2}, "b: the reply answers another round or attempt"),
    "another run": (lambda _: {"run_id": "ef" * 8}, "b: the reply answers another round"),
    "too many numbers": (
        lambda s: {"values": one_more(values_of(s)["b"])},
        "b: the masked update has",
    ),
    "an update in the clear": (
        lambda s: SiteReply(
            site="b",
            record=TrainResult(
                run_id=RUN,
                server_round=1,
                attempt=1,
                num_examples=30,
                loss_seg=1.0,
                seconds=1.0,
                alpha=np.zeros(TAPS),
                fd=np.zeros(TAPS),
                exch=np.zeros(TAPS),
                valid=np.zeros(TAPS),
                weights=weights_of(s, "b"),
            ).to_record(),
        ),
        "b: expected a 'masked' message",
    ),
    "masks of other keys": (
        lambda s: {"values": values_of(s)["b"]},
        "the masks did not cancel in the sum",
    ),
}


@pytest.mark.parametrize(("change", "reason"), VOID.values(), ids=VOID)
def test_an_attempt_is_void_with(change: Callable[[RunState], Any], reason: str) -> None:
    strategy = Strategy(plan_of())
    state = state_of(strategy)
    with pytest.raises(QuorumNotMet, match=reason):
        train(strategy, state, b=change(state))


def test_an_attempt_is_void_if_the_sum_holds_other_examples_than_were_announced() -> None:
    strategy = Strategy(plan_of())
    state = state_of(strategy)
    with pytest.raises(QuorumNotMet, match="not the 101 that the sites announced"):
        strategy.aggregate_train(state, 1, 1, EXAMPLES | {"c": 61}, replies_of(state))


def test_a_step_without_its_peers_voids_the_attempt_if_the_plan_requires_them() -> None:
    strategy = Strategy(plan_of(exchange={"required": True}, steps_per_round=2))
    server_round = strategy.plan.phase_1_rounds + 1
    state = state_of(strategy)
    with pytest.raises(QuorumNotMet, match="b: a step of its round lacked the cross-site term"):
        train(strategy, state, server_round, b={"exchange": replace(STATS, answered=1, dropped=1)})

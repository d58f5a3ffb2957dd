"""The two phases, the best round of each, and the scores that choose it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import RecordDict

from fdfed.errors import InvalidInput
from fdfed.wire import EvaluateResult
from fdfed_server.site_reply import SiteReply
from tests.unit.fdfed_server.strategy_rounds import (
    EXAMPLES,
    RUN,
    TAPS,
    bits,
    concluded,
    in_phase_2,
    scores,
    strategy_of,
    train,
)


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

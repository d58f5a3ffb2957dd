"""One hostile site of four: what is refused is named, what is bounded is bounded, and the round of
the honest three goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fdfed.config import RunPlan
from fdfed.errors import QuorumNotMet
from fdfed.exchange import ExchangeStats
from fdfed.wire import TrainResult
from fdfed_server.run_state import RunState
from fdfed_server.site_reply import SiteReply
from fdfed_server.strategy import Strategy
from fdfed_server.trained_round import TrainedRound
from tests.plans import PHASED

HONEST = ("a", "b", "c")
HOSTILE = "mallory"
EXAMPLES = dict.fromkeys((*HONEST, HOSTILE), 20)
TAPS = 9
Weights = dict[str, np.ndarray]
Attack = Callable[[Weights, Weights], Weights]
"""From the weights that were sent and honest ones, what the hostile site answers."""


def strategy_of(**changes: Any) -> Strategy:
    plan = {
        "sites": list(EXAMPLES),
        "width": 4,
        "in_channels": 1,
        "size": 32,
        "rounds": 7,
        "quorum": 3,
    }
    return Strategy(RunPlan.model_validate(PHASED | plan | changes))


def honest(state: RunState, site: str, server_round: int) -> Weights:
    """Every weight moved by about half of what AdamW can: 10 steps of 0.001."""
    seed = [ord(site[0]), server_round]
    rng = np.random.default_rng(seed)
    weights = {}
    for name, value in state.model.weights.items():
        if value.dtype.kind == "i":
            weights[name] = value + 10
        elif name.endswith(("running_mean", "running_var")):
            weights[name] = value * np.float32(0.9)
        else:
            # A direction that all sites share, and one of the site's own.
            own = 0.002 * rng.standard_normal(value.shape)
            weights[name] = (value + 0.004 + own).astype(value.dtype)
    return weights


def reply_of(
    state: RunState, site: str, server_round: int, weights: Weights, **changes: Any
) -> SiteReply:
    values: dict[str, Any] = {
        "run_id": state.run_id,
        "server_round": server_round,
        "attempt": 1,
        "num_examples": EXAMPLES[site],
        "loss_seg": 0.5,
        "seconds": 1.0,
        "alpha": np.full(TAPS, 0.002),
        "fd": np.ones(TAPS),
        "exch": np.full(TAPS, 0.5),
        "valid": np.ones(TAPS),
        "exchange": ExchangeStats(),
        "weights": weights,
    }
    return SiteReply(site=site, record=TrainResult(**(values | changes)).to_record())


def attacked(
    strategy: Strategy, state: RunState, attack: Attack, server_round: int = 1, **changes: Any
) -> TrainedRound:
    replies = [
        reply_of(state, site, server_round, honest(state, site, server_round)) for site in HONEST
    ]
    sent = dict(state.model.weights)
    answer = attack(sent, honest(state, HOSTILE, server_round))
    replies.append(reply_of(state, HOSTILE, server_round, answer, **changes))
    return strategy.aggregate_train(state, server_round, 1, EXAMPLES, replies)


def concluded(strategy: Strategy, state: RunState, trained: TrainedRound) -> RunState:
    return strategy.conclude(state, trained, {}, seconds=1.0)


def scaled(factor: float) -> Attack:
    """The honest update, `factor` times as long."""

    def attack(sent: Weights, own: Weights) -> Weights:
        return {
            name: value
            if value.dtype.kind == "i" or "running" in name
            else (sent[name] + factor * (value - sent[name])).astype(value.dtype)
            for name, value in own.items()
        }

    return attack


def with_first_weight(change: Callable[[np.ndarray], np.ndarray]) -> Attack:
    def attack(sent: Weights, own: Weights) -> Weights:
        name = next(name for name, value in own.items() if value.dtype.kind == "f")
        return own | {name: change(own[name])}

    return attack


def with_statistics(ending: str, value: float) -> Attack:
    def attack(sent: Weights, own: Weights) -> Weights:
        return {
            name: np.full_like(array, value) if name.endswith(ending) else array
            for name, array in own.items()
        }

    return attack


def no_attack(sent: Weights, own: Weights) -> Weights:
    return own


def moves(state: RunState, trained: TrainedRound) -> np.ndarray:
    """By how much the common model moved, all trained weights in one vector."""
    return np.concatenate(
        [
            (trained.model.weights[name].astype(np.float64) - value).ravel()
            for name, value in state.model.weights.items()
            if value.dtype.kind == "f" and "running" not in name
        ]
    )


# --- what is refused


@pytest.mark.parametrize(
    ("attack", "changes", "said"),
    [
        pytest.param(
            with_first_weight(lambda w: w * np.float32(np.nan)),
            {},
            "not finite",
            marks=pytest.mark.bad_input,
        ),
        pytest.param(
            with_first_weight(lambda w: w + np.float32(np.inf)),
            {},
            "not finite",
            marks=pytest.mark.bad_input,
        ),
        (with_first_weight(lambda w: w[:1]), {}, r"the model has float32"),
        (with_first_weight(lambda w: w.astype(np.float64)), {}, r"is float64"),
        (with_first_weight(lambda w: w + np.float32(1e30)), {}, "broken or hostile"),
        (scaled(100), {}, "broken or hostile"),
        (scaled(-100), {}, "broken or hostile"),
        (with_statistics("running_var", -1.0), {}, "running variance"),
        (with_statistics("running_mean", np.nan), {}, "not finite"),
        (with_statistics("num_batches_tracked", 2**60), {}, "the counter"),
        (no_attack, {"num_examples": 10**6}, "num_examples is 1000000, but .* announced 20"),
        (no_attack, {"num_examples": 1}, "num_examples is 1, but"),
    ],
)
def test_what_no_honest_site_sends_is_refused_and_the_others_round_stands(
    attack: Attack, changes: dict[str, Any], said: str
) -> None:
    strategy = strategy_of()
    state = strategy.initial_state("cd" * 8)
    trained = attacked(strategy, state, attack, **changes)
    refused = trained.sites[HOSTILE].refused
    assert refused is not None
    assert re.search(said, refused), refused
    assert trained.accepted == HONEST
    alone = strategy.aggregate_train(
        state, 1, 1, EXAMPLES, [reply_of(state, s, 1, honest(state, s, 1)) for s in HONEST]
    )
    assert {n: w.tobytes() for n, w in trained.model.weights.items()} == {
        n: w.tobytes() for n, w in alone.model.weights.items()
    }


# --- what is bounded


@pytest.mark.parametrize("factor", [9.0, -9.0])
def test_a_long_update_of_a_first_round_counts_as_the_cap(factor: float) -> None:
    strategy = strategy_of()
    state = strategy.initial_state("cd" * 8)
    entry = attacked(strategy, state, scaled(factor)).sites[HOSTILE]
    assert entry.bounded_to is not None
    assert entry.drift is not None
    assert entry.drift > 1.5 * entry.bounded_to
    assert "counts as" in str(entry.why_bounded)


def test_a_long_update_of_a_later_round_counts_as_six_usual_ones() -> None:
    strategy = strategy_of(defence={"max_update_norm": 1000.0})
    state = strategy.initial_state("cd" * 8)
    state = concluded(strategy, state, attacked(strategy, state, no_attack))
    usual = sorted(e.drift for e in state.history[0].sites.values() if e.drift is not None)[1]
    entry = attacked(strategy, state, scaled(100), server_round=2).sites[HOSTILE]
    assert entry.bounded_to == pytest.approx(6 * usual)
    assert all(
        attacked(strategy, state, scaled(100), 2).sites[s].bounded_to is None for s in HONEST
    )


def test_a_site_that_keeps_sending_long_updates_does_not_widen_the_bound() -> None:
    strategy = strategy_of(defence={"max_update_norm": 1000.0})
    state = strategy.initial_state("cd" * 8)
    state = concluded(strategy, state, attacked(strategy, state, no_attack))
    limits = []
    for server_round in (2, 3, 4):
        trained = attacked(strategy, state, scaled(100), server_round)
        limits.append(trained.sites[HOSTILE].bounded_to)
        state = concluded(strategy, state, trained)
    assert limits[2] == pytest.approx(limits[0], rel=0.05)


def test_one_long_update_moves_the_model_far_and_with_the_bound_no_further_than_usual() -> None:
    free, held = strategy_of(defence={"update_bound": "off"}), strategy_of()
    state = free.initial_state("cd" * 8)
    quiet = np.linalg.norm(moves(state, attacked(free, state, no_attack)))
    ruined = np.linalg.norm(moves(state, attacked(free, state, scaled(-19))))
    bounded = np.linalg.norm(moves(state, attacked(held, state, scaled(-19))))
    # (3 honest steps - 19) / 4, and (3 - the cap's 4.5) / 4, in the direction that all share.
    assert ruined > 3 * quiet
    assert bounded < quiet


@pytest.mark.parametrize("ending", ["running_mean", "running_var"])
def test_huge_running_statistics_are_clipped(ending: str) -> None:
    strategy = strategy_of()
    state = strategy.initial_state("cd" * 8)
    trained = attacked(strategy, state, with_statistics(ending, 1e30))
    entry = trained.sites[HOSTILE]
    assert entry.clipped is not None
    assert "running statistics clipped" in str(entry.why_bounded)
    largest = max(float(w.max()) for n, w in trained.model.weights.items() if n.endswith(ending))
    assert largest < 60  # a quarter of 100 · (1 + 1), and the others' share
    assert entry.refused is None


def test_an_honest_round_has_the_bits_that_it_has_without_a_bound() -> None:
    held, free = strategy_of(), strategy_of(defence={"update_bound": "off"})
    state = held.initial_state("cd" * 8)
    for server_round in (1, 2, 3):
        one = attacked(held, state, no_attack, server_round)
        two = attacked(free, state, no_attack, server_round)
        assert one.drift == two.drift
        assert one.sites == two.sites
        for name, value in one.model.weights.items():
            assert value.tobytes() == two.model.weights[name].tobytes(), name
        state = concluded(held, state, one)


# --- robust aggregation


@pytest.mark.parametrize("robust", ["trimmed_mean", "median"])
@pytest.mark.parametrize("factor", [-19.0, -1.0, 19.0])
def test_a_robust_average_stays_within_the_honest_updates(robust: str, factor: float) -> None:
    strategy = strategy_of(aggregation="robust", defence={"robust": robust})
    state = strategy.initial_state("cd" * 8)
    trained = attacked(strategy, state, scaled(factor))
    assert trained.accepted == (*HONEST, HOSTILE)
    updates = [honest(state, site, 1) for site in HONEST]
    for name, value in trained.model.weights.items():
        stacked = np.stack([update[name] for update in updates])
        assert (value >= stacked.min(axis=0)).all(), name
        assert (value <= stacked.max(axis=0)).all(), name
        assert value.dtype == state.model.weights[name].dtype


def test_a_robust_round_goes_where_the_honest_sites_go() -> None:
    plain, robust = strategy_of(), strategy_of(aggregation="robust")
    state = plain.initial_state("cd" * 8)
    quiet = moves(state, attacked(plain, state, no_attack))
    bent, held = (moves(state, attacked(s, state, scaled(-19))) for s in (plain, robust))
    assert bent @ quiet < 0
    assert held @ quiet > 0.7 * (quiet @ quiet)


def test_one_site_has_no_say_in_alpha_and_its_target_beyond_the_honest_ones() -> None:
    strategy = strategy_of(aggregation="robust", rounds=3)  # round 3 is the first of phase 2
    state = strategy.initial_state("cd" * 8)
    assert strategy.plan.phase_1_rounds == 2
    for server_round in (1, 2):
        state = concluded(strategy, state, attacked(strategy, state, no_attack, server_round))
    lies = {"alpha": np.full(TAPS, 1e300), "fd": np.full(TAPS, -1e300)}
    trained = attacked(strategy, state, no_attack, 3, **lies)
    np.testing.assert_allclose(trained.model.alpha, 0.002)
    np.testing.assert_allclose(trained.model.target, 1.5 - strategy.plan.alpha.margin)


def test_too_few_answers_for_a_robust_average_void_the_attempt() -> None:
    strategy = strategy_of(aggregation="robust", quorum=3)
    state = strategy.initial_state("cd" * 8)
    strategy.leave_out({"a", "b"})
    replies = [reply_of(state, site, 1, honest(state, site, 1)) for site in ("c", HOSTILE)]
    with pytest.raises(QuorumNotMet, match="needs 3 sites: one of 2 moves their middle"):
        strategy.aggregate_train(state, 1, 1, EXAMPLES, replies)


def test_the_spooled_updates_of_a_round_are_gone_after_it(tmp_path: Path) -> None:
    strategy, spool = strategy_of(aggregation="robust"), tmp_path / "spool"
    state = strategy.initial_state("cd" * 8)
    seen = []

    def replies() -> Iterator[SiteReply]:
        for site in (*HONEST, HOSTILE):
            yield reply_of(state, site, 1, honest(state, site, 1))
            seen.append(len(list(spool.iterdir())))

    strategy.aggregate_train(state, 1, 1, EXAMPLES, replies(), spool=spool)
    assert seen == [1, 2, 3, 4]
    assert not spool.exists()

"""Rounds of a small plan, as its sites would answer them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fdfed.config import RunPlan
from fdfed.evaluation.aggregates import Aggregate
from fdfed.exchange import ExchangeStats
from fdfed.wire import EvaluateResult, TrainResult
from fdfed_server.run_state import RunState
from fdfed_server.site_reply import SiteReply
from fdfed_server.strategy import Strategy
from fdfed_server.trained_round import TrainedRound
from tests.plans import PHASED

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
    return RunPlan.model_validate(PHASED | values | changes)


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


def in_phase_2(strategy: Strategy) -> RunState:
    state = strategy.initial_state(RUN)
    for server_round in range(1, strategy.plan.phase_1_rounds + 1):
        state = concluded(strategy, state, server_round, dict.fromkeys(EXAMPLES, 0.5))
    return state

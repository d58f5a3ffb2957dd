"""What a private answer looks like on the wire, and to the site's gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fdfed.config import RunPlan
from fdfed.errors import PrivacyBudgetExceeded, WireError
from fdfed.evaluation.results import SitePrivacy
from fdfed.exchange import ExchangeStats
from fdfed.wire import EvaluateResult, TrainResult
from fdfed_client.egress import Policy, PolicyRefusal, is_public, public_reason
from fdfed_client.egress.kinds import check_reply

RUN = "ab" * 8
SPENT = SitePrivacy(epsilon=1.5, delta=0.02, unit="patient", units=36)
ANSWER = TrainResult(
    run_id=RUN,
    server_round=4,
    attempt=1,
    num_examples=14,
    loss_seg=np.nan,
    seconds=np.nan,
    alpha=np.zeros(2),
    fd=np.full(2, np.nan),
    exch=np.full(2, np.nan),
    valid=np.full(2, np.nan),
    released=np.linspace(-1, 1, 24),
    exchange=ExchangeStats(),
    weights={"w": np.ones(3, dtype=np.float32)},
)


def test_a_private_answer_passes_the_gate_and_arrives_as_it_left() -> None:
    record = ANSWER.to_record()
    check_reply("trained", record, asked="train", site="a", min_count=3)
    found = TrainResult.from_record(record)
    assert np.isnan([found.loss_seg, found.seconds, *found.fd, *found.valid]).all()
    assert found.released is not None
    assert found.released.tolist() == np.linspace(-1, 1, 24).tolist()
    assert TrainResult.from_record(replace(ANSWER, released=None).to_record()).released is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_release_that_is_not_finite_is_refused(value: float) -> None:
    record = replace(ANSWER, released=np.array([1.0, value])).to_record()
    with pytest.raises(WireError, match="released"):
        TrainResult.from_record(record)


def scores(privacy: SitePrivacy | None) -> EvaluateResult:
    return EvaluateResult(
        run_id=RUN, server_round=1, part="test", dice=None, iou=None, privacy=privacy
    )


@pytest.mark.parametrize("privacy", [None, SPENT])
def test_what_a_site_has_spent_travels_with_its_scores(privacy: SitePrivacy | None) -> None:
    assert EvaluateResult.from_record(scores(privacy).to_record()) == scores(privacy)


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon": -1.0},
        {"epsilon": float("inf")},
        {"epsilon": float("nan")},
        {"delta": 0.0},
        {"delta": 1.0},
        {"units": 0},
        pytest.param({"unit": "hospital"}, marks=pytest.mark.bad_input),
    ],
)
def test_an_impossible_epsilon_is_refused(changes: dict[str, Any]) -> None:
    record = scores(replace(SPENT, **changes)).to_record()
    with pytest.raises(WireError, match="privacy"):
        EvaluateResult.from_record(record)


def test_that_the_budget_is_spent_is_one_of_the_sentences_that_may_leave() -> None:
    reason = public_reason(PrivacyBudgetExceeded("ε would be 3.14 for Mr. X"))
    assert reason.partition(":")[0] == "PrivacyBudgetExceeded"
    assert is_public(reason)
    assert "3.14" not in reason


def private_plan(weights: object) -> RunPlan:
    return RunPlan.model_validate(
        {
            "norm": "group",
            "alpha": {"mode": "fixed"},
            "privacy": {
                "epsilon": 8.0,
                "delta": "derived",
                "unit": "patient",
                "weights": weights,
                "prototypes": {"noise_multiplier": 4.0, "max_norm": 2.0, "dimensions": 8},
            },
        }
    )


def test_a_site_with_a_bound_on_epsilon_takes_no_plan_whose_weights_are_bare() -> None:
    policy = Policy(max_epsilon=2.0)
    for plan in (RunPlan(), private_plan("unprotected")):
        with pytest.raises(PolicyRefusal, match="lets weights leave without noise"):
            policy.check_plan(plan)
        Policy().check_plan(plan)
    policy.check_plan(private_plan({"noise_multiplier": 1.0, "max_grad_norm": 1.0}))

"""How much of one site's update enters, whatever it sends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdfed.config import RunPlan, parse
from fdfed.errors import InvalidInput, WireError
from fdfed.evaluation.results import RoundRecord, SiteRound
from fdfed_server.aggregation import WeightedAverage
from fdfed_server.update_bound import UpdateBound, update_cap, usual_move
from tests.plans import PHASED

W = {
    "w": np.array([1, 2, 2, 4], dtype=np.float32),  # length 5
    "norm.running_mean": np.array([1.0, 0.0], dtype=np.float32),
    "norm.running_var": np.array([4.0, 0.0], dtype=np.float32),
    "norm.num_batches_tracked": np.array(7, dtype=np.int64),
}
TRAINED = frozenset({"w"})


def plan_of(**changes: Any) -> RunPlan:
    values = {"rounds": 10, "steps_per_round": 5, "learning_rate": 0.1, **changes}
    return parse(RunPlan, PHASED | values, source="the test")


def record_of(number: int, phase: int = 1, **norms: float | SiteRound) -> RoundRecord:
    sites = {
        site: norm if isinstance(norm, SiteRound) else SiteRound(drift=norm)
        for site, norm in norms.items()
    }
    return RoundRecord(round=number, phase=phase, attempt=1, sites=sites)


def bound_of(*history: RoundRecord, plan: RunPlan | None = None) -> UpdateBound:
    plan = plan or plan_of()
    return UpdateBound(plan, W, trained=TRAINED, history=history, server_round=len(history) + 1)


def moved(*by: float, **others: Any) -> dict[str, np.ndarray]:
    names = {name.rpartition(".")[2]: name for name in W}
    changed = {names[key]: np.array(v, dtype=W[names[key]].dtype) for key, v in others.items()}
    return W | {"w": W["w"] + np.array(by, dtype=np.float32)} | changed


def applied(bound: UpdateBound, weights: dict[str, np.ndarray]) -> Any:
    return bound.apply(weights, WeightedAverage(W, measured=TRAINED).square_move(weights))


# --- how long an update may be


def test_the_cap_is_that_of_the_optimiser_as_worked_by_hand() -> None:
    # 2 · 5 steps · 0.1 · √4 weights = 2; ‖(1, 2, 2, 4)‖ = 5
    assert update_cap(plan_of(), [W["w"]], 1) == pytest.approx(2.0)
    assert update_cap(plan_of(optimizer="sgd"), [W["w"]], 1) == pytest.approx(5.0)
    assert update_cap(plan_of(defence={"max_update_norm": 0.3}), [W["w"]], 1) == 0.3
    falling = plan_of(learning_rate_schedule="poly", rounds=10)
    assert update_cap(falling, [W["w"]], 6) == pytest.approx(2.0 * 0.5**0.9)


def test_the_usual_move_is_the_lower_median_of_the_last_rounds_of_the_phase() -> None:
    history = [
        record_of(1, a=90.0, b=91.0),
        *(record_of(n, a=1.0 * n, b=10.0 * n) for n in (2, 3, 4)),
    ]
    # 2 3 4 20 30 40: the middle two are 4 and 20
    assert usual_move(history, phase=1) == 4
    assert usual_move(history, phase=2) is None


def test_what_did_not_enter_does_not_count_in_the_usual_move() -> None:
    history = [
        record_of(
            1,
            a=1.0,
            b=SiteRound(drift=500.0, bounded_to=6.0),
            c=SiteRound(refused="not finite"),
            d=2.0,
        )
    ]
    assert usual_move(history, phase=1) == 2.0  # of 1, 2 and 6


def test_rounds_in_which_nothing_moved_bound_nothing() -> None:
    assert usual_move([record_of(1, a=0.0, b=0.0)], phase=1) is None


def test_a_first_round_has_the_cap_and_a_later_one_the_factor_times_the_usual() -> None:
    assert bound_of().limit == pytest.approx(2.0)
    assert bound_of(record_of(1, a=0.1, b=0.1)).limit == pytest.approx(0.6)
    assert bound_of(record_of(1, a=1.0, b=1.0)).limit == pytest.approx(2.0)  # never above the cap


def test_an_update_within_the_bound_is_the_very_object_that_came() -> None:
    weights = moved(1, 1, 1, 0.9)
    result = applied(bound_of(), weights)
    assert result.weights is weights
    assert (result.scaled_to, result.clipped) == (None, 0)


def test_a_longer_update_is_scaled_down_as_worked_by_hand() -> None:
    # (3, 0, 0, 4) is 5 long and the bound 2: W + 0.4 · (3, 0, 0, 4)
    result = applied(bound_of(), moved(3, 0, 0, 4))
    assert result.scaled_to == pytest.approx(2.0)
    assert result.square_move == pytest.approx(4.0)
    np.testing.assert_allclose(result.weights["w"], [2.2, 2, 2, 5.6], rtol=1e-6)
    assert result.weights["w"].dtype == np.float32
    assert set(result.weights) == set(W)
    assert len(result.weights) == len(W)


@given(by=st.lists(st.floats(-4, 4, width=32), min_size=4, max_size=4))
def test_whatever_a_site_sends_it_moves_the_sum_no_further_than_the_bound(by: list[float]) -> None:
    bound = bound_of(record_of(1, a=0.2, b=0.3))
    entered = applied(bound, moved(*by)).weights["w"].astype(np.float64) - W["w"]
    assert math.sqrt(np.square(entered).sum()) <= bound.limit * (1 + 1e-5) + 1e-6


@pytest.mark.parametrize("length", [10.1, 1e30, math.inf])
def test_an_update_that_no_training_makes_is_refused(length: float) -> None:
    bound = bound_of(record_of(1, a=0.1, b=0.1))
    with pytest.raises(WireError, match=r"moves the weights by .*nothing above 10 comes from 5"):
        bound.apply(W, length**2)


def test_an_update_just_below_is_scaled_down() -> None:
    assert applied(bound_of(), moved(9.9, 0, 0, 0)).scaled_to == pytest.approx(2.0)


# --- what no gradient moves


def test_running_statistics_are_clipped_as_worked_by_hand() -> None:
    # Means: 1 ± 10 (2 + 1) and 0 ± 10 (0 + 1); variances: up to 100 · 5 and 100 · 1.
    result = applied(
        bound_of(),
        moved(
            0.1, 0, 0, 0,
            running_mean=[1e6, -11],
            running_var=[499, 1e9],
            num_batches_tracked=2**50,
        ),
    )  # fmt: skip
    assert result.clipped == 4
    np.testing.assert_array_equal(result.weights["norm.running_mean"], [31, -10])
    np.testing.assert_array_equal(result.weights["norm.running_var"], [499, 100])
    assert result.weights["norm.num_batches_tracked"] == 57  # 7 + 10 · 5 steps
    np.testing.assert_array_equal(result.weights["w"], moved(0.1, 0, 0, 0)["w"])


def test_a_negative_running_variance_is_refused_by_name() -> None:
    with pytest.raises(WireError, match=r"running variance 'norm.running_var' .* is negative"):
        applied(bound_of(), moved(0, 0, 0, 0, running_var=[-0.1, 1]))


# --- the plan


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"sites": ["a", "b", "c"], "aggregation": "masked", "defence": {"max_update_norm": 1}},
            "with aggregation = masked nobody sees one",
        ),
        ({"defence": {"update_bound": "off", "max_update_norm": 1}}, "has no effect"),
        ({"defence": {"norm_factor": 0.5}}, "defence.norm_factor"),
        ({"defence": {"max_update_norm": 0}}, "defence.max_update_norm"),
    ],
)
def test_a_bound_that_cannot_hold_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        plan_of(**changes)

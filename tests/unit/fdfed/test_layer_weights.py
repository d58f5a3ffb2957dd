"""α: the direction of the first step in each mode, its ends, and taps without a measurement."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fdfed.config import AlphaMode, AlphaPlan
from fdfed.errors import InvalidInput
from fdfed.layer_weights import aggregate, propose, starting_alpha, target_of

NAN = float("nan")


def _vector(*values: float) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def _step(
    plan: AlphaPlan, alpha: NDArray[np.float64], losses: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One round of one site, with the target zero."""
    proposal = propose(alpha, losses, np.zeros_like(alpha), plan=plan)
    return aggregate(proposal[None], _vector(1), plan=plan, phase_2_round=1, phase_2_rounds=100)


def test_dual_raises_alpha_where_the_loss_is_above_its_target() -> None:
    plan = AlphaPlan(rate=0.1)
    proposal = propose(_vector(0.5, 0.5), _vector(2.0, -1.0), _vector(1.0, 1.0), plan=plan)
    np.testing.assert_allclose(proposal, [0.6, 0.3])  # 0.5 + 0.1·1 and 0.5 - 0.1·2


def test_the_first_dual_step_is_what_the_later_target_would_have_given() -> None:
    plan = AlphaPlan(rate=0.2, margin=0.5)
    losses, weights = np.array([[2.0, -3.0], [4.0, 1.0]]), _vector(1, 3)
    first = np.stack([propose(_vector(0, 0), row, None, plan=plan) for row in losses])
    np.testing.assert_allclose(first, 0.2 * 0.5)
    target = target_of(losses, weights, margin=0.5)
    np.testing.assert_allclose(target, [3.5 - 0.5, 0.0 - 0.5])  # (2 + 3·4)/4 and (-3 + 3·1)/4
    later = np.stack([propose(_vector(0, 0), row, target, plan=plan) for row in losses])
    shares = weights / weights.sum()
    np.testing.assert_allclose(shares @ later, shares @ first, atol=1e-15)


def test_dual_stops_rising_once_the_loss_has_reached_its_target() -> None:
    """A loss that falls as α grows, L = 1 - 100 α: α settles where L meets the target."""
    plan = AlphaPlan(rate=0.002, maximum=1.0)
    alpha = _vector(0.0)
    for _ in range(200):
        alpha = _step(plan, alpha, 1 - 100 * alpha)
    np.testing.assert_allclose(alpha, [0.01], rtol=1e-6)


def test_descent_on_alpha_times_a_positive_loss_holds_alpha_at_zero() -> None:
    plan = AlphaPlan(mode="paper", rate=1e-4)
    alpha = _vector(0.0)
    for _ in range(50):
        alpha = _step(plan, alpha, _vector(0.9))
    assert alpha.tolist() == [0.0]


def test_descent_on_alpha_times_a_negative_loss_grows_until_the_clip() -> None:
    # 75 epochs of 45 steps with L = -0.5 and η = 1e-4: α = 3375 · 0.5 · 1e-4 = 0.16875. With
    # L = -20 it would be 6.75, and the clip holds it at 1.
    plan = AlphaPlan(mode="paper", rate=1e-4)
    slow, fast = _vector(0.0), _vector(0.0)
    for _ in range(75 * 45):
        slow, fast = _step(plan, slow, _vector(-0.5)), _step(plan, fast, _vector(-20.0))
    np.testing.assert_allclose(slow, [0.16875])
    assert fast.tolist() == [1.0]


@pytest.mark.parametrize("mode", ["dual", "paper"])
def test_a_tap_without_a_valid_batch_proposes_no_change(mode: AlphaMode) -> None:
    plan = AlphaPlan(mode=mode)
    for target in (None, _vector(0.0, 0.0)):
        proposal = propose(_vector(0.003, 0.003), _vector(NAN, 1.0), target, plan=plan)
        assert proposal[0] == 0.003
        assert proposal[1] != 0.003


def test_a_tap_that_no_site_could_measure_has_no_target_and_starts_later() -> None:
    losses = np.array([[NAN, 1.0], [NAN, NAN]])
    target = target_of(losses, _vector(1, 1), margin=0.5)
    np.testing.assert_array_equal(target, [NAN, 0.5])
    plan = AlphaPlan(rate=0.1, margin=0.5)
    proposal = propose(_vector(0, 0), _vector(7.0, 0.5), target, plan=plan)
    np.testing.assert_allclose(proposal, [0.05, 0.0])


def test_ramp_goes_from_zero_to_the_maximum_over_phase_2() -> None:
    plan = AlphaPlan(mode="ramp", maximum=0.4)
    used = [starting_alpha(1, plan=plan, phase_2_rounds=5)]
    for r in range(1, 5):
        proposal = propose(used[-1], _vector(3.0), None, plan=plan)
        used.append(
            aggregate(proposal[None], _vector(1), plan=plan, phase_2_round=r, phase_2_rounds=5)
        )
    np.testing.assert_allclose(np.concatenate(used), [0.0, 0.1, 0.2, 0.3, 0.4])
    assert starting_alpha(1, plan=plan, phase_2_rounds=1).tolist() == [0.4]


def test_fixed_stays_at_its_value_whatever_is_proposed() -> None:
    plan = AlphaPlan(mode="fixed", value=0.3, maximum=0.01)
    assert starting_alpha(2, plan=plan, phase_2_rounds=5).tolist() == [0.3, 0.3]
    proposals = np.array([[9.0, NAN]])
    alpha = aggregate(proposals, _vector(1), plan=plan, phase_2_round=3, phase_2_rounds=5)
    assert alpha.tolist() == [0.3, 0.3]


@pytest.mark.parametrize("mode", ["dual", "paper"])
def test_alpha_starts_at_zero(mode: AlphaMode) -> None:
    assert starting_alpha(3, plan=AlphaPlan(mode=mode), phase_2_rounds=5).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("mode", "highest"), [("dual", 0.01), ("paper", 1.0)])
@given(
    proposals=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5),
    weights=st.lists(st.floats(0.1, 1e4), min_size=5, max_size=5),
)
@settings(deadline=None, max_examples=30)
def test_alpha_stays_within_its_ends(
    mode: AlphaMode, highest: float, proposals: list[float], weights: list[float]
) -> None:
    alpha = aggregate(
        np.array(proposals)[:, None],
        np.array(weights[: len(proposals)]),
        plan=AlphaPlan(mode=mode),
        phase_2_round=1,
        phase_2_rounds=3,
    )
    assert 0 <= alpha[0] <= highest


def test_proposals_are_averaged_by_examples_before_the_clip() -> None:
    # (1·(-0.01) + 3·0.01) / 4 = 0.005; clipping each site first would give 0.0075.
    alpha = aggregate(
        np.array([[-0.01], [0.01]]),
        _vector(1, 3),
        plan=AlphaPlan(),
        phase_2_round=1,
        phase_2_rounds=3,
    )
    np.testing.assert_allclose(alpha, [0.005])


def test_arguments_are_left_as_they_were() -> None:
    alpha, losses = _vector(0.001), _vector(2.0)
    for mode in ("dual", "paper", "ramp", "fixed"):
        proposal = propose(alpha, losses, None, plan=AlphaPlan(mode=mode))  # type: ignore[arg-type]
        proposal[:] = 9
    assert alpha.tolist() == [0.001]
    assert losses.tolist() == [2.0]


@pytest.mark.bad_input
def test_impossible_values_are_refused_with_what_to_do() -> None:
    plan = AlphaPlan()
    with pytest.raises(InvalidInput, match="infinite"):
        propose(_vector(0), _vector(np.inf), None, plan=plan)
    with pytest.raises(InvalidInput, match="one network"):
        propose(_vector(0, 0), _vector(1), None, plan=plan)
    with pytest.raises(InvalidInput, match="not finite"):
        aggregate(np.array([[NAN]]), _vector(1), plan=plan, phase_2_round=1, phase_2_rounds=2)
    with pytest.raises(InvalidInput, match="above zero"):
        aggregate(np.array([[0.0]]), _vector(0), plan=plan, phase_2_round=1, phase_2_rounds=2)
    with pytest.raises(InvalidInput, match="for each site"):
        target_of(np.array([[0.0]]), _vector(1, 2), margin=0.5)

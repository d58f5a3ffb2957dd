"""α and its target, from round to round."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.fdfed_server.strategy_rounds import (
    EXAMPLES,
    RUN,
    TAPS,
    in_phase_2,
    strategy_of,
    train,
)


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

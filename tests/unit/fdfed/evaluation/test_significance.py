"""The tests and intervals of the studies: by hand, against SciPy, and on data of known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fdfed.errors import InvalidInput
from fdfed.evaluation.significance import (
    bootstrap,
    compare,
    detectable_effect,
    holm,
    permutation_p_value,
    simultaneous_lower_bounds,
)


def test_three_patients_of_one_site_by_hand() -> None:
    # 1, 2, 3 of 8 sign patterns: sums 6, 4, 2, 0, 0, -2, -4, -6. At or above the sum of
    # (1, 2, -3) = 0 are five, of (1, 2, 3) = 6 one.
    assert permutation_p_value([np.array([1.0, 2.0, 3.0])]) == 1 / 8
    assert permutation_p_value([np.array([1.0, 2.0, -3.0])]) == 5 / 8


def test_sites_weigh_equally_whatever_their_number_of_patients() -> None:
    few, many = np.array([[4.0]]), np.array([[0.0, 0.0, 0.0, -2.0]])
    found = compare({"few": few, "many": many})
    # (4 + -0.5) / 2, and not the mean over five patients, 0.4.
    assert found.estimate == pytest.approx(1.75)
    assert found.sites == {"few": 4.0, "many": -0.5}
    assert (found.patients, found.seeds) == ({"few": 1, "many": 4}, 1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 9))
def test_one_site_has_scipys_exact_p_value(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs = rng.normal(0.3, 1, count), rng.normal(0, 1, count)
    oracle = stats.permutation_test(
        (ours, theirs),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert permutation_p_value([ours - theirs]) == pytest.approx(oracle.pvalue)


def test_random_swaps_come_near_to_all_swaps() -> None:
    rng = np.random.default_rng(1)
    patients = [rng.normal(0.4, 1, 7), rng.normal(0.4, 1, 9)]
    exact = permutation_p_value(patients)
    # One patient more makes 2^17 swaps; a difference of zero changes no sum, only its site's mean.
    padded = [np.append(patients[0], 0.0) * 8 / 7, patients[1]]
    drawn = permutation_p_value(padded, draws=20_000)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))


def test_under_the_null_small_p_values_are_as_rare_as_they_say() -> None:
    rng = np.random.default_rng(2)
    p = np.array(
        [permutation_p_value([rng.standard_t(3, 4), rng.standard_t(3, 5)]) for _ in range(400)]
    )
    for level in (0.05, 0.2, 0.5):
        assert np.mean(p <= level) <= level + 3 * math.sqrt(level * (1 - level) / 400)


def test_the_bootstrap_has_the_standard_error_of_a_mean_of_site_means() -> None:
    rng = np.random.default_rng(3)
    differences = {"a": rng.normal(0, 2, (1, 30)), "b": rng.normal(0, 5, (1, 50))}
    draws = bootstrap(differences, draws=20_000)
    expected = math.sqrt(sum(v.var() / v.shape[1] for v in differences.values())) / 2
    assert draws.std() == pytest.approx(expected, rel=0.03)
    interval = stats.bootstrap(
        (differences["a"][0],), np.mean, method="percentile", n_resamples=20_000, rng=rng
    ).confidence_interval
    own = np.quantile(bootstrap({"a": differences["a"]}, draws=20_000), (0.025, 0.975))
    np.testing.assert_allclose(own, [interval.low, interval.high], atol=0.04)


def test_seeds_that_differ_widen_the_interval_and_patients_alike_do_not_narrow_it() -> None:
    # Every patient moves with the seed: five seeds are the whole information.
    effect = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    few, many = ({"a": np.repeat(effect[:, None], n, 1)} for n in (3, 300))
    expected = math.sqrt(effect.var() / 5)
    for differences in (few, many):
        assert bootstrap(differences).std() == pytest.approx(expected, rel=0.05)


def test_simultaneous_bounds_hold_together_as_often_as_they_say() -> None:
    rng = np.random.default_rng(4)
    held = 0
    for trial in range(200):
        data = rng.normal(0, 1, (40, 3)) + rng.normal(0, 1, (40, 1))
        picks = np.random.default_rng(trial).integers(0, 40, (800, 40))
        bounds = simultaneous_lower_bounds(data.mean(0), data[picks].mean(1))
        held += bool((bounds <= 0).all())
    assert 0.90 <= held / 200 <= 0.99


def test_one_quantitys_simultaneous_bound_is_its_own_percentile() -> None:
    draws = np.random.default_rng(5).normal(1.0, 0.5, (50_000, 1))
    bound = simultaneous_lower_bounds(np.array([1.0]), draws)
    assert bound == pytest.approx([1 - 1.645 * 0.5], abs=0.02)


def test_holm_by_hand() -> None:
    # 2 · 0.02 = 0.04; then max(0.04, 0.03).
    assert holm({"H1": 0.02, "H2": 0.03}) == {"H1": 0.04, "H2": 0.04}
    # 3 · 0.01, 2 · 0.04, 1 · 0.5, in the order asked for.
    found = holm({"b": 0.5, "a": 0.01, "c": 0.04})
    assert found == {"b": 0.5, "a": pytest.approx(0.03), "c": pytest.approx(0.08)}


@settings(max_examples=50)
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_lies_between_no_correction_and_bonferronis(p: list[float]) -> None:
    named = {str(number): value for number, value in enumerate(p)}
    for name, value in holm(named).items():
        assert named[name] <= value <= min(1.0, len(p) * named[name])


def test_the_detectable_effect_by_hand() -> None:
    # √(16/4 + 9/9) / 2 = √5 / 2 and z = 1.9600 + 0.8416.
    found = detectable_effect({"a": 4.0, "b": 3.0}, {"a": 4, "b": 9})
    assert found == pytest.approx(2.8016 * math.sqrt(5) / 2, rel=1e-4)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({}, "at least one of each"),
        ({"a": np.zeros((1, 0))}, "at least one of each"),
        ({"a": np.zeros((1, 2)), "b": np.zeros((2, 2))}, "other numbers of seeds"),
        ({"a": np.array([[math.nan]])}, "not finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    differences: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        compare(differences)

"""ε of a history of releases."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from fdfed.errors import InvalidInput
from fdfed.privacy.accounting import ORDERS, Release, checked_delta, derived_delta, epsilon_of

TABLE = {
    # N, expected batch, steps: ε by σ at δ = N⁻¹·¹ (Opacus 1.6.0). The last cell of the last row
    # was 0.09 with orders up to 63; with higher ones the same releases cost 0.07.
    (36, 4, 675): {1: 15.3, 2: 4.50, 4: 1.65, 8: 0.64, 16: 0.24},
    (117, 8, 1096): {1: 12.6, 2: 3.86, 4: 1.51, 8: 0.63, 16: 0.26},
    (500, 8, 3125): {1: 4.46, 2: 1.47, 4: 0.61, 8: 0.27, 16: 0.12},
    (5000, 16, 15625): {1: 2.07, 2: 0.74, 4: 0.32, 8: 0.15, 16: 0.07},
}


@pytest.mark.parametrize(("cohort", "row"), TABLE.items())
def test_epsilon_is_that_of_the_table(cohort: tuple[int, int, int], row: dict[int, float]) -> None:
    units, batch, steps = cohort
    for sigma, expected in row.items():
        release = Release(noise_multiplier=float(sigma), sample_rate=batch / units, steps=steps)
        found = epsilon_of([release], delta=derived_delta(units))
        # Three digits, or two decimals, as printed.
        assert round(found, 1 if expected > 10 else 2) == expected


@pytest.mark.parametrize(("sigma", "expected"), [(4.0, 11.3), (16.0, 2.0), (64.0, 0.4)])
def test_a_hundred_releases_of_everybody_cost_what_the_table_says(
    sigma: float, expected: float
) -> None:
    release = Release(noise_multiplier=sigma, sample_rate=1.0, steps=100)
    assert round(epsilon_of([release], delta=1e-3), 1) == expected


def test_without_sampling_epsilon_follows_from_the_equations_by_hand() -> None:
    # Rényi divergence of order a after T releases: T a / (2 σ²). To ε (Balle et al. 2020,
    # Theorem 21): divergence + log((a - 1) / a) - (log δ + log a) / (a - 1), at the best order.
    sigma, steps, delta = 8.0, 50, 1e-4
    orders = [1 + x / 1000 for x in range(1, 60_000)]
    by_hand = min(
        steps * a / (2 * sigma**2) + math.log((a - 1) / a) - math.log(delta * a) / (a - 1)
        for a in orders
    )
    release = Release(noise_multiplier=sigma, sample_rate=1.0, steps=steps)
    found = epsilon_of([release], delta=delta)
    # The accountant tries fewer orders, so it can only be a little above.
    assert by_hand <= found <= 1.01 * by_hand


def test_with_sampling_epsilon_follows_from_the_binomial_sum() -> None:
    # Mironov et al. 2019, section 3.3, integer order a:
    # 1/(a-1) log Σ_k C(a,k) (1-q)^(a-k) q^k exp(k (k - 1) / (2 σ²)).
    sigma, q, steps, delta = 2.0, 0.1, 500, 1e-3

    def divergence(a: int) -> float:
        total = sum(
            math.comb(a, k) * (1 - q) ** (a - k) * q**k * math.exp(k * (k - 1) / (2 * sigma**2))
            for k in range(a + 1)
        )
        return math.log(total) / (a - 1)

    by_hand = min(
        steps * divergence(a) + math.log((a - 1) / a) - math.log(delta * a) / (a - 1)
        for a in range(2, 40)
    )
    release = Release(noise_multiplier=sigma, sample_rate=q, steps=steps)
    found = epsilon_of([release], delta=delta)
    # Whole orders alone are a little worse than those that the accountant may choose.
    assert found <= by_hand <= 1.02 * found


@pytest.mark.parametrize(("sigma", "steps"), [(4.0, 1), (16.0, 100), (64.0, 100)])
def test_epsilon_is_never_below_the_exact_one_of_the_gaussian_mechanism(
    sigma: float, steps: int
) -> None:
    # T releases at σ are one at σ/√T; its exact δ(ε) is Balle & Wang 2018, Theorem 8.
    delta, mu = 1e-3, math.sqrt(steps) / sigma

    def excess(epsilon: float) -> float:
        upper = norm.cdf(mu / 2 - epsilon / mu)
        return float(upper - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - delta)

    exact = brentq(excess, 1e-9, 60) if excess(1e-9) > 0 else 0.0
    release = Release(noise_multiplier=sigma, sample_rate=1.0, steps=steps)
    assert exact <= epsilon_of([release], delta=delta) <= 1.5 * exact + 0.2


KINDS = [(1.0, 0.1, 5), (2.0, 1.0, 1), (1.0, 0.1, 2), (4.0, 0.5, 3)]


def releases_of(kinds: list[tuple[float, float, int]]) -> list[Release]:
    return [Release(noise_multiplier=s, sample_rate=q, steps=t) for s, q, t in kinds]


def test_a_mixed_history_costs_what_opacus_own_accountant_says() -> None:
    accountant = RDPAccountant()
    accountant.history = list(KINDS)
    expected = accountant.get_epsilon(1e-3, alphas=list(ORDERS))
    assert epsilon_of(releases_of(KINDS), delta=1e-3) == pytest.approx(expected, rel=1e-12)


@settings(deadline=None)
@given(st.permutations(KINDS))
def test_the_order_of_releases_does_not_matter(kinds: list[tuple[float, float, int]]) -> None:
    expected = epsilon_of(releases_of(KINDS), delta=1e-3)
    assert epsilon_of(releases_of(kinds), delta=1e-3) == pytest.approx(expected, rel=1e-12)


@settings(deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 100))
def test_one_release_more_never_costs_less(kind: tuple[float, float, int], steps: int) -> None:
    before = releases_of([(4.0, 0.5, 10)])
    more = releases_of([(kind[0], kind[1], steps)])
    assert epsilon_of([*before, *more], delta=1e-3) >= epsilon_of(before, delta=1e-3)


def test_nothing_released_costs_nothing() -> None:
    assert epsilon_of([], delta=1e-3) == 0


@pytest.mark.parametrize(
    "values",
    [
        {"noise_multiplier": 0.0, "sample_rate": 0.5},
        {"noise_multiplier": math.nan, "sample_rate": 0.5},
        {"noise_multiplier": 1.0, "sample_rate": 1.5},
        {"noise_multiplier": 1.0, "sample_rate": 0.0},
        {"noise_multiplier": 1.0, "sample_rate": 0.5, "steps": 0},
    ],
)
def test_a_release_without_noise_or_with_an_impossible_rate_is_refused(
    values: dict[str, float],
) -> None:
    with pytest.raises(InvalidInput, match="noise must be above 0"):
        Release(**values)  # type: ignore[arg-type]


def test_delta_is_below_one_unit_in_all() -> None:
    assert derived_delta(36) == pytest.approx(0.0194, abs=1e-4)
    assert all(derived_delta(n) < 1 / n for n in range(2, 1000))
    with pytest.raises(InvalidInput, match="one patient"):
        derived_delta(1)
    assert checked_delta(0.01, 36) == 0.01
    with pytest.raises(InvalidInput, match="publishing one of them whole"):
        checked_delta(0.05, 36)

"""The noise, and who is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fdfed.privacy.randomness import SystemRandomness

SYSTEM = SystemRandomness()

# Each statistic below is out of its bounds in one of 10⁷ runs or fewer, whatever the noise draws.


def test_the_noise_is_gaussian_with_the_standard_deviation_asked_for() -> None:
    count, std = 400_000, 3.0
    noise = SYSTEM.gaussian(count, std=std)
    # Standard errors: of the mean σ/√n; of the variance σ²√(2/n); of the 4th moment √96/√n.
    assert abs(noise.mean()) < 5.5 * std / np.sqrt(count)
    assert abs(noise.var() / std**2 - 1) < 5.5 * np.sqrt(2 / count)
    assert abs(((noise / std) ** 4).mean() - 3) < 5.5 * np.sqrt(96 / count)
    assert stats.kstest(noise / std, "norm").pvalue > 1e-7


def test_the_coordinates_of_one_draw_are_independent() -> None:
    # Pairs of Box & Muller's transform lie half a draw apart; neighbours share nothing.
    count = 200_000
    noise = SYSTEM.gaussian(count, std=1.0)
    for lag in (1, 2, count // 2):
        product = noise * np.roll(noise, lag)
        assert abs(product.mean()) < 5.5 / np.sqrt(count)
    squares = (noise**2 - 1) * (np.roll(noise, count // 2) ** 2 - 1) / 2
    assert abs(squares.mean()) < 10 / np.sqrt(count)


def test_no_two_draws_are_alike() -> None:
    draws = [SYSTEM.gaussian(3, std=1.0).tobytes() for _ in range(200)]
    assert len(set(draws)) == 200


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_any_number_of_draws_can_be_had(count: int) -> None:
    assert SYSTEM.gaussian(count, std=1.0).shape == (count,)


def test_each_unit_is_drawn_alone_with_the_rate_asked_for() -> None:
    steps, units, rate = 4000, 50, 0.1
    drawn = [SYSTEM.poisson_sample(units, rate=rate) for _ in range(steps)]
    times = np.bincount(np.concatenate(drawn), minlength=units)
    # Binomial: mean nq, variance nq(1-q); of the size of a step likewise over the units.
    assert np.abs(times - steps * rate).max() < 6.5 * np.sqrt(steps * rate * (1 - rate))
    sizes = np.array([len(step) for step in drawn])
    expected = units * rate * (1 - rate)
    assert abs(sizes.var() / expected - 1) < 5.5 * np.sqrt(2.2 / steps)
    assert (sizes == 0).any()


def test_everybody_is_drawn_at_rate_1() -> None:
    assert SYSTEM.poisson_sample(1000, rate=1.0).tolist() == list(range(1000))

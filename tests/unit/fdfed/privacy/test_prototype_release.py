"""What a site releases of its prototypes once a round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fdfed.config import MethodPlan
from fdfed.exchange import TapLayout
from fdfed.privacy.projection import projections
from fdfed.privacy.prototype_release import clipped, joint_vectors, noisy_mean

VALUES = st.floats(allow_nan=True, allow_infinity=True, width=64)


class NoNoise:
    """A release without noise shows the sum itself."""

    def gaussian(self, count: int, *, std: float) -> np.ndarray:
        return np.zeros(count)

    def poisson_sample(self, count: int, *, rate: float) -> np.ndarray:
        return np.arange(count)

    def generator(self) -> np.random.Generator:
        return np.random.default_rng(0)


def total_of(vectors: torch.Tensor, *, max_norm: float) -> np.ndarray:
    return noisy_mean(
        vectors, max_norm=max_norm, noise_multiplier=1.0, count=1, randomness=NoNoise()
    )


@given(
    rows=st.lists(st.lists(VALUES, min_size=4, max_size=4), min_size=1, max_size=6),
    max_norm=st.floats(1e-3, 1e3),
    data=st.data(),
)
def test_one_unit_more_or_less_moves_the_sum_by_at_most_the_clipping_norm(
    rows: list[list[float]], max_norm: float, data: st.DataObject
) -> None:
    vectors = torch.tensor(rows, dtype=torch.float64)
    left_out = data.draw(st.integers(0, len(rows) - 1))
    others = vectors[[i for i in range(len(rows)) if i != left_out]]
    change = total_of(vectors, max_norm=max_norm) - total_of(others, max_norm=max_norm)
    assert np.linalg.norm(change) <= max_norm * (1 + 1e-9)


def test_a_long_vector_is_scaled_to_the_norm_and_a_short_one_is_left() -> None:
    # |(3, 4)| = 5 > 2: scaled by 2/5. |(0.6, 0.8)| = 1 < 2: as it is.
    vectors = torch.tensor([[3.0, 4.0], [0.6, 0.8], [0.0, 0.0]])
    expected = torch.tensor([[1.2, 1.6], [0.6, 0.8], [0.0, 0.0]])
    torch.testing.assert_close(clipped(vectors, max_norm=2.0), expected)


def test_a_vector_that_is_not_finite_counts_as_zeros() -> None:
    vectors = torch.tensor([[torch.nan, 1.0], [torch.inf, 1.0], [0.6, 0.8]])
    assert clipped(vectors, max_norm=2.0).tolist()[:2] == [[0.0, 0.0], [0.0, 0.0]]


def test_the_gradient_of_the_clipping_is_that_of_the_equation() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(3, 4, dtype=torch.float64) * torch.tensor([[0.1], [3.0], [9.0]])
    vectors.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: clipped(v, max_norm=1.0), vectors)


def test_the_release_is_the_noisy_sum_over_the_public_count(seeded: Callable[..., Any]) -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.6, 0.8]])
    found = noisy_mean(vectors, max_norm=2.0, noise_multiplier=0.5, count=10, randomness=seeded(7))
    # Clipped sum (1.8, 2.4), noise of σR = 1, all over n̄ = 10.
    noise = np.random.default_rng(7).standard_normal(2)
    np.testing.assert_allclose(found, (np.array([1.8, 2.4]) + noise) / 10, rtol=1e-6)


def test_distances_of_noisy_prototypes_are_too_large_by_what_the_page_says(
    seeded: Callable[..., Any],
) -> None:
    # Two terms of k coordinates, each the difference of two vectors with variances s², t²:
    # E[D_noisy] = D + 2k (s² + t²). Here k = 8, s = 0.5, t = 0.25, D = 0: 16 · 0.3125 = 5.
    rng, k, draws = seeded(1).rng, 8, 20_000
    F_s, B_s = 0.5 * rng.standard_normal((2, draws, k))
    F_t, B_t = 0.25 * rng.standard_normal((2, draws, k))
    D = ((F_s - B_t) ** 2).sum(1) + ((F_t - B_s) ** 2).sum(1)
    assert D.mean() == pytest.approx(5.0, abs=5 * D.std() / np.sqrt(draws))


# --- projection

LAYOUT = TapLayout(("Enc1", "Bot", "Dec1"), (4, 64, 32))


def test_the_projection_is_one_of_signs_and_the_same_at_every_site() -> None:
    first, again = (projections(LAYOUT, dimensions=16, seed=3) for _ in range(2))
    assert [tuple(P.shape) for P in first.values()] == [(4, 4), (16, 64), (16, 32)]
    assert all(torch.equal(first[name], again[name]) for name in LAYOUT.names)
    assert torch.equal(first["Enc1"], torch.eye(4, dtype=torch.float64))
    assert set(first["Bot"].flatten().tolist()) == {-0.25, 0.25}
    other = projections(LAYOUT, dimensions=16, seed=4)
    assert not torch.equal(first["Bot"], other["Bot"])
    assert LAYOUT.narrowed(16).channels == tuple(len(P) for P in first.values())


def test_the_projection_keeps_squared_lengths_on_average() -> None:
    x = torch.arange(64.0, dtype=torch.float64)
    ratios = [
        float((projections(LAYOUT, dimensions=16, seed=s)["Bot"] @ x).square().sum() / (x @ x))
        for s in range(400)
    ]
    # The variance of a ratio is below 2/k.
    assert np.mean(ratios) == pytest.approx(1.0, abs=5 * np.sqrt(2 / 16 / 400))


# --- joint vectors


def maps_of(seed: int, images: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    taps = {
        name: torch.rand(images, width, 8, 8, generator=rng, dtype=torch.float64)
        for name, width in zip(LAYOUT.names, LAYOUT.channels, strict=True)
    }
    mask = torch.zeros(images, 1, 8, 8)
    mask[:, :, 2:5, 3:7] = 1
    return taps, mask


def test_a_joint_vector_holds_foreground_then_background_of_every_tap() -> None:
    taps, mask = maps_of(0, 2)
    projection = projections(LAYOUT, dimensions=16, seed=0)
    found = joint_vectors(taps, mask, projection, MethodPlan(bound="none"))
    assert found.shape == (2, 2 * (4 + 16 + 16))
    # By hand for the second image at Dec1, whose foreground lies behind Enc1's 4 and Bot's 16.
    inside = mask[1, 0].bool()
    foreground = taps["Dec1"][1][:, inside].mean(1)
    torch.testing.assert_close(found[1, 20:36], projection["Dec1"] @ foreground)
    background = taps["Dec1"][1][:, ~inside].mean(1)
    torch.testing.assert_close(found[1, 56:72], projection["Dec1"] @ background)


def test_an_image_without_both_regions_gives_zeros_whatever_it_holds() -> None:
    taps, mask = maps_of(0, 2)
    mask[0] = 0
    taps["Bot"][0, 0, 0, 0] = torch.nan
    found = joint_vectors(taps, mask, projections(LAYOUT, dimensions=16, seed=0), MethodPlan())
    assert not found[0].any()
    assert found[1].any()


def test_an_images_vector_does_not_depend_on_the_others_of_its_batch() -> None:
    taps, mask = maps_of(1, 3)
    projection = projections(LAYOUT, dimensions=8, seed=0)
    method = MethodPlan(bound="normalise")
    together = joint_vectors(taps, mask, projection, method)
    for i in range(3):
        alone = joint_vectors(
            {name: tap[i : i + 1] for name, tap in taps.items()},
            mask[i : i + 1],
            projection,
            method,
        )
        torch.testing.assert_close(together[i : i + 1], alone)

"""The paper's other definitions and the released scripts': where they agree and how they differ."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.losses import feature_discrepancy_loss
from fdfed.losses.published import (
    algorithm_1_discrepancy,
    algorithm_1_exchange,
    channel_summed_prototypes,
    released_discrepancy,
    released_exchange,
)
from fdfed.prototypes import masked_prototypes


def _batch(seed: int, *, images: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    features = torch.rand(images, 4, 6, 6, generator=rng, dtype=torch.float64)
    mask = (torch.rand(images, 1, 6, 6, generator=rng) > 0.6).double()
    return features, mask


def test_channel_summed_prototypes_are_scalars_that_agree_for_one_channel() -> None:
    features, mask = _batch(0)
    foreground, background, valid = channel_summed_prototypes(features, mask)
    assert foreground.shape == background.shape == (3, 1)
    torch.testing.assert_close(foreground[:, 0], (features * mask).sum((1, 2, 3)))
    assert valid.all()
    single = channel_summed_prototypes(features[:, :1], mask)
    for got, want in zip(
        single, masked_prototypes(features[:, :1], mask, pooling="sum"), strict=True
    ):
        assert torch.equal(got, want)


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=15)
def test_algorithm_1_has_half_the_value_and_gradient_of_eq_1(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    F = torch.randn(3, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    B = torch.randn(3, 5, generator=rng, dtype=torch.float64)
    unsquared = algorithm_1_discrepancy(F, B)
    squared = feature_discrepancy_loss(F, B, torch.ones(3, dtype=torch.bool), eps=0.0)
    torch.testing.assert_close(2 * unsquared, squared)
    (half,) = torch.autograd.grad(unsquared, F, retain_graph=True)
    (full,) = torch.autograd.grad(squared, F)
    torch.testing.assert_close(2 * half, full)


def test_algorithm_1_pairs_image_i_with_image_i_plus_k() -> None:
    # |F1 - B2| = 1, |F2 - B3| = 2 and |F3 - B1| = 4: mean of -log is -log(8) / 3.
    F = torch.tensor([[1.0], [5.0], [9.0]], dtype=torch.float64)
    B = torch.tensor([[5.0], [2.0], [7.0]], dtype=torch.float64)
    assert algorithm_1_exchange(F, B).item() == pytest.approx(-math.log(8) / 3)
    torch.testing.assert_close(algorithm_1_exchange(F, B, shift=4), algorithm_1_exchange(F, B))


@pytest.mark.parametrize(("images", "shift"), [(1, 1), (3, 3), (3, 0)])
def test_a_shift_that_pairs_images_with_themselves_is_a_zero_in_the_graph(
    images: int, shift: int
) -> None:
    F = torch.randn(images, 2, requires_grad=True)
    loss = algorithm_1_exchange(F, F.detach(), shift=shift)
    assert loss.item() == 0
    loss.backward()
    assert F.grad is not None


def test_the_released_loss_matches_its_formula_worked_by_hand() -> None:
    # F = 2 on a 2 x 2 map of which half is foreground: mean(yF) = 1, mean(y(1 - F)) = -1/2, so
    # the difference is 3/2 = 2 mean(yF) - mean(y), and the loss -log(3/2).
    features = torch.full((1, 1, 2, 2), 2.0)
    mask = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    assert released_discrepancy(features, mask).item() == pytest.approx(-math.log(1.5))


def test_the_released_loss_ignores_the_background() -> None:
    features, mask = _batch(1)
    elsewhere = features + 5 * (1 - mask)
    torch.testing.assert_close(
        released_discrepancy(elsewhere, mask), released_discrepancy(features, mask)
    )
    _, background, _ = masked_prototypes(features, mask)
    _, moved, _ = masked_prototypes(elsewhere, mask)
    torch.testing.assert_close(moved, background + 5)


def test_the_released_loss_falls_by_half_a_log_2_when_the_batch_is_repeated() -> None:
    features, mask = _batch(2)
    once = released_discrepancy(features, mask)
    twice = released_discrepancy(features.repeat(2, 1, 1, 1), mask.repeat(2, 1, 1, 1))
    assert (once - twice).item() == pytest.approx(math.log(2) / 2)
    # Eq. 1, a mean over images, does not change.
    F, B, valid = masked_prototypes(features, mask)
    torch.testing.assert_close(
        feature_discrepancy_loss(F.repeat(2, 1), B.repeat(2, 1), valid.repeat(2)),
        feature_discrepancy_loss(F, B, valid),
    )


def test_the_released_loss_is_infinite_at_a_zero_norm_and_finite_with_eps() -> None:
    features = torch.full((1, 1, 2, 2), 0.5)  # 2·mean(yF) = mean(y)
    mask = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    assert released_discrepancy(features, mask).item() == math.inf
    assert released_discrepancy(features, mask, eps=1e-6).item() == pytest.approx(
        -math.log(1e-3), rel=1e-5
    )


def test_the_released_exchange_shuffles_both_classes_on_their_own() -> None:
    features, mask = _batch(3, images=4)
    loss = released_exchange(features, mask, generator=torch.Generator().manual_seed(7))
    rng = torch.Generator().manual_seed(7)
    first, second = torch.randperm(4, generator=rng), torch.randperm(4, generator=rng)
    F, B = (features * mask).mean((2, 3)), ((1 - features) * mask).mean((2, 3))
    expected = -(F[first] - B[second]).norm(dim=0).log().mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_the_released_exchange_sets_one_image_in_n_against_itself(n: int) -> None:
    # F_i = (1 + δ_ic) / 2 and B_i = 1 - F_i on channels c: F_i - B_j = (δ_ic + δ_jc) / 2. Channel c
    # then has the squared norm 1 if image c meets itself, else 2 · 1/4: the loss is log(2) / 2
    # times the share of images that meet another.
    features = (1 + torch.eye(n, dtype=torch.float64)).reshape(n, n, 1, 1) / 2
    mask, rng = torch.ones(n, 1, 1, 1), torch.Generator().manual_seed(0)
    draws = [released_exchange(features, mask, generator=rng).item() for _ in range(600)]
    alone = [1 - 2 * loss / math.log(2) for loss in draws]
    # The number of fixed points of a permutation has mean and variance 1: a mean over 600 draws
    # is within 5 / √600 = 0.2 of 1.
    assert n * sum(alone) / len(alone) == pytest.approx(1, abs=0.2)


def test_the_released_exchange_of_one_image_is_a_zero_in_the_graph() -> None:
    features, mask = _batch(4, images=1)
    features.requires_grad_()
    loss = released_exchange(features, mask, generator=torch.Generator())
    assert loss.item() == 0
    loss.backward()
    assert features.grad is not None

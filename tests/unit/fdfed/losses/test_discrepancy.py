"""L_fd: Eq. 1 by hand, its bounds, and its gradient where prototypes coincide."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.losses import Bound, feature_discrepancy_loss
from fdfed.prototypes import masked_prototypes

ALL = torch.ones(1, dtype=torch.bool)


def _points(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_discrepancy_loss_matches_eq_1_worked_by_hand() -> None:
    # Differences (1, 2, 2) and (0, 0, 4): |·|² = 9 and 16; the third image is not valid.
    F = _points([1, 2, 2], [0, 0, 4], [7, 7, 7])
    B = _points([0, 0, 0], [0, 0, 0], [7, 7, 7])
    loss = feature_discrepancy_loss(F, B, torch.tensor([True, True, False]), eps=0.0)
    assert loss.item() == pytest.approx(-(math.log(9) + math.log(16)) / 2, abs=1e-12)


def test_the_gradient_is_the_closed_form() -> None:
    # dL/dF = -2 (F - B) / (|F - B|² + ε), dL/dB its negative.
    F, B = _points([3, 0]).requires_grad_(), _points([1, 1]).requires_grad_()
    feature_discrepancy_loss(F, B, ALL, eps=0.5).backward()
    assert F.grad is not None
    assert B.grad is not None
    torch.testing.assert_close(F.grad, _points([-4 / 5.5, 2 / 5.5]))
    torch.testing.assert_close(B.grad, -F.grad)


def test_no_valid_image_gives_a_zero_in_the_graph() -> None:
    F = torch.zeros(2, 3, requires_grad=True)
    loss = feature_discrepancy_loss(F, F * 1, torch.zeros(2, dtype=torch.bool))
    assert loss.item() == 0.0
    loss.backward()
    assert F.grad is not None
    assert F.grad.abs().sum() == 0


@pytest.mark.parametrize("bound", ["none", "normalise", "cap"])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_value_and_gradient_are_finite_where_the_prototypes_coincide(
    bound: Bound, level: float
) -> None:
    F = torch.full((1, 4), level, requires_grad=True)
    B = torch.full((1, 4), level, requires_grad=True)
    loss = feature_discrepancy_loss(F, B, ALL, bound=bound)
    assert loss.item() == pytest.approx(-math.log(1e-6), rel=1e-5)
    loss.backward()
    for point in (F, B):
        assert point.grad is not None
        assert point.grad.isfinite().all()


@given(scale=st.floats(1e-4, 1e4), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_the_gradient_never_exceeds_its_bound(scale: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    F = (scale * torch.randn(1, 3, generator=rng, dtype=torch.float64)).requires_grad_()
    B = (scale * torch.randn(1, 3, generator=rng, dtype=torch.float64)).requires_grad_()
    eps = 1e-3
    gradients = torch.autograd.grad(feature_discrepancy_loss(F, B, ALL, eps=eps), (F, B))
    assert torch.cat(gradients).norm() <= math.sqrt(2 / eps) * (1 + 1e-9)


@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 100))
@settings(deadline=None, max_examples=40)
def test_bounded_losses_stay_above_minus_log_4(seed: int, scale: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    F = scale * torch.randn(1, 6, generator=rng, dtype=torch.float64)
    B = scale * torch.randn(1, 6, generator=rng, dtype=torch.float64)
    floor = -math.log(4 + 1e-6) - 1e-12
    assert feature_discrepancy_loss(F, B, ALL, bound="normalise").item() >= floor
    assert feature_discrepancy_loss(F, B, ALL, bound="cap").item() >= floor


def test_scaling_the_features_lowers_the_literal_loss_and_leaves_the_normalised_one() -> None:
    F, B = _points([1.0, 2.0, 0.5]), _points([0.2, 0.1, 2.0])
    plain = feature_discrepancy_loss(F, B, ALL, eps=0.0)
    scaled = feature_discrepancy_loss(10 * F, 10 * B, ALL, eps=0.0)
    assert (plain - scaled).item() == pytest.approx(2 * math.log(10))
    torch.testing.assert_close(
        feature_discrepancy_loss(10 * F, 10 * B, ALL, bound="normalise"),
        feature_discrepancy_loss(F, B, ALL, bound="normalise"),
    )


def test_beyond_the_cap_the_gradient_is_zero() -> None:
    F, B = _points([3.0, 0.0]).requires_grad_(), _points([0.0, 0.0])  # |F - B|² = 9 > 4
    loss = feature_discrepancy_loss(F, B, ALL, bound="cap", eps=0.0)
    assert loss.item() == pytest.approx(-math.log(4))
    loss.backward()
    assert F.grad is not None
    assert F.grad.abs().sum() == 0


def test_sums_instead_of_means_shift_the_loss_by_a_constant_when_both_divide_by_all_cells() -> None:
    """Dividing both sums by H W changes log D by 2 log(H W), and no gradient."""
    features = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :1] = 1
    F, B, valid = masked_prototypes(features, mask, pooling="sum")
    by_sum = feature_discrepancy_loss(F, B, valid, eps=0.0)
    by_mean = feature_discrepancy_loss(F / 16, B / 16, valid, eps=0.0)
    assert (by_mean - by_sum).item() == pytest.approx(2 * math.log(16))
    (g_sum,) = torch.autograd.grad(by_sum, features, retain_graph=True)
    (g_mean,) = torch.autograd.grad(by_mean, features)
    torch.testing.assert_close(g_sum, g_mean, rtol=1e-12, atol=1e-14)


def test_small_differences_of_half_precision_prototypes_do_not_vanish() -> None:
    """Squares of 1e-4 underflow in fp16, which would make the loss infinite with ε = 0."""
    F = torch.full((1, 8), 1e-4, dtype=torch.float16)
    loss = feature_discrepancy_loss(F, torch.zeros_like(F), ALL, eps=0.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-math.log(8e-8), rel=1e-3)

"""L_exch on the pairs of Algorithm 1: by hand, its mean over shifts, and batches without pairs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fdfed.errors import InvalidInput
from fdfed.losses import Bound, Form, exchange_loss, shifted_exchange_loss
from fdfed.losses.published import algorithm_1_exchange

FORMS: tuple[Form, ...] = ("paper", "ratio", "gap")
BOUNDS: tuple[Bound, ...] = ("none", "normalise", "cap")


def images(count: int, *, seed: int = 0, valid: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Prototypes of `count` images, of which the first `valid` and the last are usable."""
    rng = torch.Generator().manual_seed(seed)
    F, B = (torch.randn(count, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    known = torch.ones(count, dtype=torch.bool)
    if valid is not None:
        known[valid:-1] = False
    return F, B, known


def test_image_i_is_set_against_image_i_plus_k_by_hand() -> None:
    # F = 1, 5, 9 and B = 5, 2, 7 with k = 1: D_12 = (1 - 2)² + (5 - 5)² = 1,
    # D_23 = (5 - 7)² + (9 - 2)² = 53, D_31 = (9 - 5)² + (1 - 7)² = 52.
    F = torch.tensor([[1.0], [5.0], [9.0]], dtype=torch.float64)
    B = torch.tensor([[5.0], [2.0], [7.0]], dtype=torch.float64)
    valid = torch.ones(3, dtype=torch.bool)
    expected = -(math.log(1) + math.log(53) + math.log(52)) / 3
    assert shifted_exchange_loss(F, B, valid, eps=0.0).item() == pytest.approx(expected)
    # The same pairs of images, of which Algorithm 1 takes |F_i - B_{i+k}| = 1, 2 and 4 alone.
    assert algorithm_1_exchange(F, B).item() == pytest.approx(-math.log(1 * 2 * 4) / 3)
    # k = 4 goes once round the three images.
    torch.testing.assert_close(
        shifted_exchange_loss(F, B, valid, shift=4), shifted_exchange_loss(F, B, valid)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bound", BOUNDS)
@given(seed=st.integers(0, 2**31), count=st.integers(3, 7))
@settings(deadline=None, max_examples=8)
def test_the_mean_over_all_shifts_is_the_loss_of_all_pairs(
    form: Form, bound: Bound, seed: int, count: int
) -> None:
    F, B, valid = images(count, seed=seed, valid=2)
    m = int(valid.sum())
    losses = [
        shifted_exchange_loss(F, B, valid, shift=k, form=form, bound=bound) for k in range(1, m)
    ]
    torch.testing.assert_close(
        torch.stack(losses).mean(), exchange_loss(F, B, valid, form=form, bound=bound)
    )


@pytest.mark.parametrize(("count", "shift"), [(1, 1), (3, 3), (3, 0), (3, -3)])
def test_no_image_is_ever_set_against_itself(count: int, shift: int) -> None:
    F, B, valid = images(count)
    F.requires_grad_()
    loss = shifted_exchange_loss(F, B, valid, shift=shift)
    assert loss.item() == 0.0
    (gradient,) = torch.autograd.grad(loss, F)
    assert gradient.abs().sum() == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("usable", [0, 1])
def test_fewer_than_two_usable_images_give_a_zero_in_the_graph(form: Form, usable: int) -> None:
    F, B, valid = images(3)
    valid[usable:] = False
    F[2], B[2] = torch.nan, torch.inf
    F.requires_grad_()
    loss = shifted_exchange_loss(F, B, valid, form=form)
    assert loss.item() == 0.0
    (gradient,) = torch.autograd.grad(loss, F)
    assert gradient.abs().sum() == 0


def test_what_an_unusable_image_holds_does_not_matter() -> None:
    F, B, valid = images(5, valid=2)
    expected = shifted_exchange_loss(F, B, valid)
    F[2], B[3] = torch.nan, torch.inf
    F.requires_grad_()
    loss = shifted_exchange_loss(F, B, valid)
    assert torch.equal(loss, expected)
    (gradient,) = torch.autograd.grad(loss, F)
    assert gradient.isfinite().all()
    assert gradient[2:4].abs().sum() == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bound", BOUNDS)
def test_value_and_gradient_are_finite_where_all_images_coincide(form: Form, bound: Bound) -> None:
    F = torch.full((3, 4), 0.7, requires_grad=True)
    loss = shifted_exchange_loss(F, F * 1, torch.ones(3, dtype=torch.bool), form=form, bound=bound)
    assert loss.item() == pytest.approx(0.0 if form == "gap" else -math.log(1e-6))
    (gradient,) = torch.autograd.grad(loss, F)
    assert gradient.isfinite().all()


@pytest.mark.bad_input
def test_shapes_that_do_not_belong_together_are_refused() -> None:
    F, B, valid = images(3)
    with pytest.raises(InvalidInput, match="one row for each"):
        shifted_exchange_loss(F, B[:2], valid)

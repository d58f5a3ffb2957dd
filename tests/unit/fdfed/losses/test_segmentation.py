"""Dice + BCE: by hand, against MONAI, and at the ends of the number range."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceCELoss

from fdfed.errors import InvalidInput
from fdfed.losses import segmentation_loss


def test_segmentation_loss_matches_the_equations_worked_by_hand() -> None:
    # Logits 0, 0, log 3, -log 3 give p = 1/2, 1/2, 3/4, 1/4; y = 1, 0, 1, 0.
    # Σpy = 5/4, Σp = 2, Σy = 2, so L_dice = 1 - 2.5 / 4 = 3/8 (ε = 0).
    # L_bce = -(2 log 1/2 + 2 log 3/4) / 4 = (log 2 + log 4/3) / 2.
    logits = torch.tensor([[[[0.0, 0.0], [math.log(3), -math.log(3)]]]], dtype=torch.float64)
    mask = torch.tensor([[[[1, 0], [1, 0]]]])
    expected = 3 / 8 + (math.log(2) + math.log(4 / 3)) / 2
    assert segmentation_loss(logits, mask, eps=0.0).item() == pytest.approx(expected, abs=1e-12)


@given(seed=st.integers(0, 2**31), batch=st.integers(1, 3), side=st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_segmentation_loss_is_monais_dice_and_cross_entropy_over_the_batch(
    seed: int, batch: int, side: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(batch, 1, side, side, generator=rng, dtype=torch.float64)
    mask = (torch.rand(batch, 1, side, side, generator=rng) > 0.5).double()
    oracle = DiceCELoss(sigmoid=True, batch=True)
    torch.testing.assert_close(segmentation_loss(logits, mask), oracle(logits, mask))


def test_dice_sums_run_over_the_whole_batch_not_per_image() -> None:
    logits = torch.tensor([[[[40.0, 40.0]]], [[[-40.0, -40.0]]]])
    mask = torch.tensor([[[[1.0, 1.0]]], [[[0.0, 1.0]]]])
    # Σpy = 2, Σp = 2, Σy = 3: Dice 4/5. Per image it would be the mean of 1 and 0.
    # BCE: one wrong pixel of four costs 40.
    assert segmentation_loss(logits, mask).item() == pytest.approx(1 / 5 + 10, abs=1e-4)


def test_perfect_logits_bring_the_loss_to_zero() -> None:
    """A sigmoid applied twice could not go below log(1 + 1/e) = 0.313 on the foreground."""
    mask = (torch.rand(2, 1, 8, 8) > 0.5).float()
    assert segmentation_loss((2 * mask - 1) * 50, mask).item() < 1e-6


def test_probabilities_in_place_of_logits_would_leave_a_floor_that_logits_do_not_have() -> None:
    # A second sigmoid turns a perfect 1 into 1 / (1 + e⁻¹): cross-entropy log(1 + e⁻¹) = 0.313 on
    # the foreground, and log 2 on the background, where the first gives 0.
    mask = torch.tensor([[[[1.0, 0.0]]]])
    perfect = torch.where(mask > 0, 50.0, -50.0)
    assert segmentation_loss(perfect, mask).item() == pytest.approx(0.0, abs=1e-6)
    floor = (math.log(1 + math.exp(-1)) + math.log(2)) / 2
    assert segmentation_loss(perfect.sigmoid(), mask).item() > floor


def test_huge_wrong_logits_give_a_finite_loss_and_gradient() -> None:
    logits = torch.full((1, 1, 4, 4), 1e4, requires_grad=True)
    loss = segmentation_loss(logits, torch.zeros(1, 1, 4, 4))
    assert loss.item() == pytest.approx(1e4 + 1)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.sum().item() == pytest.approx(1.0)  # BCE's slope of 1/16 on 16 pixels


def test_half_precision_logits_of_a_large_image_do_not_overflow() -> None:
    logits = torch.full((1, 1, 512, 512), 20.0, dtype=torch.float16)
    loss = segmentation_loss(logits, torch.ones(1, 1, 512, 512))
    assert loss.dtype == torch.float32
    assert loss.item() < 1e-5


def test_an_empty_mask_and_an_empty_prediction_cost_nothing() -> None:
    assert segmentation_loss(torch.full((1, 1, 8, 8), -60.0), torch.zeros(1, 1, 8, 8)) < 1e-6


@pytest.mark.bad_input
def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Resize the mask"):
        segmentation_loss(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4))

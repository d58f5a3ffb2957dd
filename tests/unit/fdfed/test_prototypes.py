"""Masked prototypes: the equation by hand, which images count, and how precise the sums are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fdfed.errors import InvalidInput
from fdfed.prototypes import (
    MaskPooling,
    _sums_of_products,
    batch_prototypes,
    masked_prototypes,
    region_sums,
    tap_regions,
    unit_vectors,
    unit_vectors_backward,
)


def test_prototypes_match_the_equation_worked_by_hand() -> None:
    # Foreground: cells 1 and 4, mean (1 + 4) / 2. Background: 2 and 3, mean 2.5. Second channel
    # ten times as much, with a cell changed: fg (10 + 50) / 2 = 30, bg (20 + 30) / 2 = 25.
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[10.0, 20.0], [30.0, 50.0]]]])
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    foreground, background, valid = masked_prototypes(features, mask)
    torch.testing.assert_close(foreground, torch.tensor([[2.5, 30.0]]))
    torch.testing.assert_close(background, torch.tensor([[2.5, 25.0]]))
    assert valid.tolist() == [True]
    foreground, background, _ = masked_prototypes(features, mask, pooling="sum")
    torch.testing.assert_close(foreground, torch.tensor([[5.0, 60.0]]))
    torch.testing.assert_close(background, torch.tensor([[5.0, 50.0]]))


def test_a_cell_is_foreground_if_any_of_its_pixels_is() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    mask[0, 0, 0, 1] = 1  # touches the upper left cell of 2 x 2 only
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    foreground, background, _ = masked_prototypes(features, mask)
    assert foreground.item() == 1.0
    assert background.item() == 3.0  # (2 + 3 + 4) / 3


def test_dual_max_counts_a_mixed_cell_for_neither_class() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    mask[0, 0, 0, 1] = 1  # upper left cell: mixed
    mask[0, 0, 2:, 2:] = 1  # lower right cell: wholly foreground
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    foreground, background, valid = masked_prototypes(features, mask, mask_pooling="dual_max")
    assert foreground.item() == 4.0
    assert background.item() == 2.5  # (2 + 3) / 2
    assert valid.tolist() == [True]


def test_a_tap_whose_side_does_not_divide_the_masks_is_pooled_adaptively() -> None:
    mask = torch.zeros(1, 1, 5, 5)
    mask[0, 0, 4, 4] = 1
    features = torch.arange(9.0).reshape(1, 1, 3, 3)
    foreground, background, _ = masked_prototypes(features, mask)
    assert foreground.item() == 8.0
    assert background.item() == pytest.approx(28 / 8)


@pytest.mark.parametrize("mask_pooling", ["max", "dual_max"])
def test_images_without_one_of_the_classes_are_invalid_and_finite(mask_pooling: str) -> None:
    mask = torch.zeros(3, 1, 8, 8)
    mask[1] = 1
    mask[2, :, :4] = 1
    features = torch.randn(3, 2, 4, 4, requires_grad=True)
    foreground, background, valid = masked_prototypes(
        features,
        mask,
        mask_pooling=mask_pooling,  # type: ignore[arg-type]
    )
    assert valid.tolist() == [False, False, True]
    (foreground.sum() + background.sum()).backward()
    assert foreground.isfinite().all()
    assert background.isfinite().all()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_dense_small_structures_leave_no_background_after_max_pooling() -> None:
    """Every 2 x 2 cell holds one nucleus pixel: at half size nothing is background any more."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., ::2, ::2] = 1
    _, _, valid = masked_prototypes(torch.randn(1, 3, 8, 8), mask)
    assert valid.tolist() == [True]
    _, _, valid = masked_prototypes(torch.randn(1, 3, 4, 4), mask)
    assert valid.tolist() == [False]


@given(seed=st.integers(0, 2**31), share=st.floats(0.02, 0.6))
@settings(deadline=None, max_examples=25)
def test_the_foreground_grows_with_depth_under_max_and_shrinks_under_dual_max(
    seed: int, share: float
) -> None:
    """With one background for both: a cell without any foreground pixel."""
    rng = torch.Generator().manual_seed(seed)
    mask = (torch.rand(1, 1, 32, 32, generator=rng) < share).double()
    shares = {kind: [mask.mean().item()] for kind in ("max", "dual_max")}
    for side in (16, 8, 4):
        grown, pure = (
            tap_regions(mask, torch.Size((side, side)), kind)  # type: ignore[arg-type]
            for kind in ("max", "dual_max")
        )
        assert torch.equal(grown[:, 1], pure[:, 1])
        assert bool((pure[:, 0] <= grown[:, 0]).all())
        assert torch.equal(grown.sum(1), torch.ones(1, side * side, dtype=torch.float64))
        for kind, regions in (("max", grown), ("dual_max", pure)):
            shares[kind].append(regions[:, 0].mean().item())
    assert shares["max"] == sorted(shares["max"])
    assert shares["dual_max"] == sorted(shares["dual_max"], reverse=True)


def test_constant_features_have_equal_prototypes_by_mean_and_an_area_cue_by_sum() -> None:
    # With the area ratio r = 1/4 and H W = 16: sums are 4c and 12c, so F - B = c · 16 · (2r - 1).
    features = torch.full((1, 1, 4, 4), 3.0)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 0, :] = 1
    foreground, background, _ = masked_prototypes(features, mask)
    assert foreground.item() == background.item() == 3.0
    foreground, background, _ = masked_prototypes(features, mask, pooling="sum")
    assert (foreground - background).item() == pytest.approx(3.0 * 16 * (2 / 4 - 1))


@given(seed=st.integers(0, 2**31), side=st.integers(2, 9), batch=st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_prototypes_are_the_means_of_the_selected_cells(seed: int, side: int, batch: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, 5, side, side, generator=rng, dtype=torch.float64)
    mask = torch.rand(batch, 1, side, side, generator=rng) > 0.5
    foreground, background, valid = masked_prototypes(features, mask)
    for i in range(batch):
        inside = mask[i, 0]
        assert bool(valid[i]) == bool(inside.any() and (~inside).any())
        if valid[i]:
            torch.testing.assert_close(foreground[i], features[i][:, inside].mean(-1))
            torch.testing.assert_close(background[i], features[i][:, ~inside].mean(-1))


def test_every_mask_type_gives_the_same_prototypes() -> None:
    features = torch.randn(2, 3, 4, 4)
    mask = torch.rand(2, 1, 8, 8) > 0.7
    expected = masked_prototypes(features, mask)
    for dtype in (torch.uint8, torch.float32, torch.float64, torch.bfloat16):
        for got, want in zip(masked_prototypes(features, mask.to(dtype)), expected, strict=True):
            assert torch.equal(got, want)


def test_half_precision_features_are_summed_in_full_precision() -> None:
    # 512² cells of 0.5: the sum, 131072, is above fp16's largest number, 65504.
    features = torch.full((1, 1, 512, 512), 0.5, dtype=torch.float16)
    mask = torch.ones(1, 1, 512, 512)
    mask[..., 0] = 0
    foreground, background, _ = masked_prototypes(features, mask)
    assert foreground.dtype == torch.float32
    assert foreground.item() == 0.5
    assert background.item() == 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_round_the_sums(dtype: torch.dtype) -> None:
    features, mask = torch.randn(2, 4, 32, 32), torch.rand(2, 1, 32, 32) > 0.5
    expected = masked_prototypes(features, mask)
    with torch.autocast("cpu", dtype=dtype):
        got = masked_prototypes(features, mask)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_double_precision_stays_double() -> None:
    foreground, _, _ = masked_prototypes(torch.randn(1, 2, 4, 4).double(), torch.ones(1, 1, 4, 4))
    assert foreground.dtype == torch.float64


def test_a_single_background_cell_of_a_large_map_keeps_its_digits() -> None:
    """A background taken as total minus foreground would be off in the third digit here."""
    features = 1 + torch.rand(1, 1, 512, 512, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 1, 512, 512)
    mask[..., 100, 200] = 0
    _, background, _ = masked_prototypes(features, mask)
    assert background.item() == pytest.approx(features[0, 0, 100, 200].item(), rel=1e-6)


@pytest.mark.bad_input
def test_a_mask_of_another_batch_is_refused() -> None:
    with pytest.raises(InvalidInput, match="same batch"):
        masked_prototypes(torch.randn(2, 3, 4, 4), torch.ones(3, 1, 4, 4))
    with pytest.raises(InvalidInput, match="same batch"):
        masked_prototypes(torch.randn(2, 3, 4, 4), torch.ones(2, 4, 4))


def test_batch_prototypes_are_the_means_over_valid_images() -> None:
    foreground = torch.tensor([[1.0, 2.0], [3.0, 6.0], [torch.inf, 0.0]])
    background = torch.tensor([[0.0, 1.0], [2.0, 3.0], [9.0, torch.nan]])
    valid = torch.tensor([True, True, False])
    F, B, any_valid = batch_prototypes(foreground, background, valid)
    torch.testing.assert_close(F, torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(B, torch.tensor([1.0, 2.0]))
    assert any_valid.shape == ()
    assert any_valid.item() is True


def test_without_a_valid_image_batch_prototypes_are_zeros_in_the_graph() -> None:
    foreground = torch.randn(2, 3, requires_grad=True)
    F, B, any_valid = batch_prototypes(foreground, foreground * 2, torch.zeros(2, dtype=torch.bool))
    assert any_valid.item() is False
    assert F.tolist() == B.tolist() == [0.0, 0.0, 0.0]
    (F.sum() + B.sum()).backward()
    assert foreground.grad is not None
    assert foreground.grad.tolist() == [[0.0] * 3] * 2


def test_normalised_batch_prototypes_are_means_of_unit_vectors() -> None:
    # (3, 4) / 5 and (0, 2) / 2: mean (0.3, 0.9). Not the unit vector of the mean.
    foreground = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    F, _, _ = batch_prototypes(
        foreground, foreground, torch.tensor([True, True]), bound="normalise"
    )
    torch.testing.assert_close(F, torch.tensor([0.3, 0.9]))


def test_the_derivative_of_unit_vectors_is_autograds_and_finite_at_zero() -> None:
    points = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    cotangents = torch.randn(4, 3, dtype=torch.float64)
    (expected,) = torch.autograd.grad(unit_vectors(points), points, cotangents)
    torch.testing.assert_close(unit_vectors_backward(points.detach(), cotangents), expected)
    zero: Tensor = torch.zeros(1, 3, requires_grad=True)
    (at_zero,) = torch.autograd.grad(unit_vectors(zero).sum(), zero)
    assert at_zero.isfinite().all()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_has_the_layout_of_the_features_and_the_values_do_not_depend_on_it(
    memory_format: torch.memory_format,
) -> None:
    rng = torch.Generator().manual_seed(4)
    plain = torch.randn(2, 6, 8, 8, generator=rng, dtype=torch.float64)
    mask = (torch.rand(2, 1, 16, 16, generator=rng) > 0.9).double()
    features = plain.clone().to(memory_format=memory_format).requires_grad_()
    foreground, background, _ = masked_prototypes(features, mask)
    torch.testing.assert_close((foreground, background), masked_prototypes(plain, mask)[:2])
    weights = torch.randn(2, 2, 6, generator=rng, dtype=torch.float64)
    (weights[0] * foreground + weights[1] * background).sum().backward()
    assert features.grad is not None
    assert features.grad.stride() == features.stride()
    # The product rule by hand: each cell gets its region's weight over the region's cells.
    cells = torch.nn.functional.max_pool2d(mask, 2)
    expected = weights[0][..., None, None] * cells / cells.sum((2, 3), keepdim=True) + weights[1][
        ..., None, None
    ] * (1 - cells) / (1 - cells).sum((2, 3), keepdim=True)
    torch.testing.assert_close(features.grad, expected)


@pytest.mark.parametrize("mask_pooling", ["max", "dual_max"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sums_over_regions_and_their_gradient_are_those_of_the_sum_written_out(
    mask_pooling: MaskPooling, layout: torch.memory_format
) -> None:
    rng = torch.Generator().manual_seed(3)
    features = torch.randn(2, 3, 4, 6, generator=rng, dtype=torch.float64)
    features = features.to(memory_format=layout).requires_grad_()
    mask = (torch.rand(2, 1, 8, 12, generator=rng) > 0.6).double()
    regions = tap_regions(mask, features.shape[-2:], mask_pooling)
    pull = torch.randn(2, 3, 2, generator=rng, dtype=torch.float64)

    found = region_sums(regions, features, partition=mask_pooling == "max")
    [gradient] = torch.autograd.grad((found * pull).sum(), features)
    maps = regions.reshape(2, 2, 4, 6)
    expected = torch.einsum("ncij,nkij->nck", features, maps)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, torch.einsum("nck,nkij->ncij", pull, maps))
    assert gradient.stride() == features.stride()
    # What a GPU computes of a map whose channels come first.
    torch.testing.assert_close(_sums_of_products(features.detach(), regions), expected.detach())

"""Swin-UNet: published sizes, MONAI's Swin block as an oracle, which image sizes have windows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets.swin_unetr import SwinTransformerBlock, compute_mask
from torch import nn

from fdfed.errors import InvalidInput
from fdfed.networks import SwinUNet
from fdfed.networks.swin_blocks import (
    PatchExpanding,
    PatchMerging,
    SwinBlock,
    from_windows,
    to_windows,
)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("size", "count"), [(None, 27_168_132), (448, 27_168_132), (256, 27_175_524), (512, 27_175_524)]
)
def test_swin_unet_has_the_published_number_of_parameters(size: int | None, count: int) -> None:
    # Windows of 8 instead of 7: 15² - 13² = 56 more offsets for each of 132 heads, 7,392.
    with torch.device("meta"):
        assert _parameters(SwinUNet(in_channels=3, size=size)) == count


@pytest.mark.parametrize("shifted", [False, True])
def test_a_swin_block_computes_what_monais_computes(shifted: bool) -> None:
    torch.manual_seed(0)
    ours = SwinBlock(8, side=12, window=4, heads=2, shifted=shifted, drop_path=0.0).double()
    theirs = SwinTransformerBlock(
        dim=8, num_heads=2, window_size=(4, 4), shift_size=(2, 2) if shifted else (0, 0)
    ).double()
    attention = ours.attention
    theirs.load_state_dict(
        {
            "norm1.weight": ours.attention_norm.weight,
            "norm1.bias": ours.attention_norm.bias,
            "attn.relative_position_bias_table": 50 * attention.position_bias.detach(),
            "attn.relative_position_index": theirs.attn.relative_position_index,
            "attn.qkv.weight": attention.qkv.weight,
            "attn.qkv.bias": attention.qkv.bias,
            "attn.proj.weight": attention.out.weight,
            "attn.proj.bias": attention.out.bias,
            "norm2.weight": ours.mlp[0].weight,
            "norm2.bias": ours.mlp[0].bias,
            "mlp.linear1.weight": ours.mlp[1].weight,
            "mlp.linear1.bias": ours.mlp[1].bias,
            "mlp.linear2.weight": ours.mlp[3].weight,
            "mlp.linear2.bias": ours.mlp[3].bias,
        }
    )
    with torch.no_grad():
        attention.position_bias.mul_(50)  # large enough that a wrong index would show
    x = torch.randn(2, 12, 12, 8, dtype=torch.float64)
    separations = compute_mask([12, 12], (4, 4), (2, 2), x.device).double() if shifted else None
    torch.testing.assert_close(ours(x), theirs(x, separations), rtol=1e-6, atol=1e-8)


def test_a_cell_sees_its_shifted_window_and_not_across_the_border() -> None:
    torch.manual_seed(0)
    block = SwinBlock(4, side=8, window=4, heads=1, shifted=True, drop_path=0.0).double()
    x = torch.randn(1, 8, 8, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x)[0, 0, 0].sum(), x)
    seen = gradient[0].abs().sum(-1) > 0
    # The window of (0, 0) starts two cells outside the image: two rows and two columns are left.
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:2, :2] = True
    assert torch.equal(seen, expected)


@given(window=st.integers(1, 4), count=st.integers(1, 4))
@settings(deadline=None, max_examples=15)
def test_cutting_into_windows_and_joining_is_the_identity(window: int, count: int) -> None:
    side = window * count
    x = torch.arange(2.0 * side * side * 3).reshape(2, side, side, 3)
    windows = to_windows(x, window)
    assert windows.shape == (2, count**2, window**2, 3)
    assert torch.equal(windows[0, -1, -1], x[0, -1, -1])
    assert torch.equal(from_windows(windows, window, side), x)


def test_merging_joins_the_four_cells_of_a_square_and_expanding_spreads_them() -> None:
    merging = PatchMerging(1)
    nn.init.eye_(merging.project.weight)  # (2, 4): keeps the first two of the four cells
    merging.norm = nn.Identity()
    x = torch.arange(16.0).reshape(1, 4, 4, 1)
    merged = merging(x)
    assert merged[0, 0, 0].tolist() == [0.0, 4.0]  # (0, 0) and the cell below it
    assert merged[0, 1, 1].tolist() == [10.0, 14.0]
    expanding = PatchExpanding(4, 1, factor=2)
    nn.init.eye_(expanding.project.weight)
    expanding.norm = nn.Identity()
    cell = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    assert expanding(cell)[0, :, :, 0].tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("size", "sizes"), [(100, "64 or 128"), (160, "128 or 224"), (300, "256 or 448"), (8, "32")]
)
def test_a_size_without_windows_is_refused_with_the_nearest_that_have_one(
    size: int, sizes: str
) -> None:
    with pytest.raises(InvalidInput, match=f"Use {sizes}$"):
        SwinUNet(in_channels=3, size=size)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_levels_smaller_than_a_window_are_one_window(size: int) -> None:
    network = SwinUNet(in_channels=1, width=4, size=size)
    assert network(torch.rand(1, 1, size, size)).shape == (1, 1, size, size)


def test_dropped_paths_keep_the_mean_and_are_off_in_evaluation() -> None:
    torch.manual_seed(0)
    block = SwinBlock(4, side=4, window=2, heads=1, shifted=False, drop_path=0.25)
    branch = torch.ones(4000, 1, 1, 1)
    dropped = block._drop(branch)
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(block.eval()._drop(branch), branch)

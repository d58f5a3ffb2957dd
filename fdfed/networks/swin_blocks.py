"""Swin transformer blocks on maps of shape (batch, height, width, channels)."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

_MLP_RATIO: Final = 4


class SwinBlock(nn.Module):
    """Attention within windows and a two-layer perceptron, each with LayerNorm and residual.

    Source: Liu et al. 2021, arXiv:2103.14030, Eq. 3. A shifted block moves the windows by half
    their side, so that neighbours in different windows meet; cells that the shift brings together
    across the image's border do not see each other.
    """

    separations: Tensor | None

    def __init__(
        self, channels: int, *, side: int, window: int, heads: int, shifted: bool, drop_path: float
    ) -> None:
        """See the class.

        Args:
            side: of the map, in cells; a multiple of `window`.
            drop_path: probability with which an image skips a residual branch in training.
        """
        super().__init__()
        # One window covers the whole map: there is nothing to shift to.
        self.shift = window // 2 if shifted and window < side else 0
        self.window = window
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = _WindowAttention(channels, window=window, heads=heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, _MLP_RATIO * channels),
            nn.GELU(),
            nn.Linear(_MLP_RATIO * channels, channels),
        )
        self.drop_path = drop_path
        regions = _separations(side, window, self.shift) if self.shift else None
        self.register_buffer("separations", regions, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[1]
        shifted = torch.roll(self.attention_norm(x), (-self.shift, -self.shift), dims=(1, 2))
        attended = self.attention(to_windows(shifted, self.window), self.separations)
        attended = from_windows(attended, self.window, side)
        x = x + self._drop(torch.roll(attended, (self.shift, self.shift), dims=(1, 2)))
        return x + self._drop(self.mlp(x))

    def _drop(self, branch: Tensor) -> Tensor:
        """The branch, zero for some images, scaled so that its mean stays (Huang et al. 2016)."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * branch.new_empty(len(branch), 1, 1, 1).bernoulli_(keep) / keep


class _WindowAttention(nn.Module):
    """softmax(q kᵀ / √d + B) v within each window, B by relative position (Liu et al., Eq. 4)."""

    position_index: Tensor

    def __init__(self, channels: int, *, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.position_bias = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.position_bias, std=0.02)
        self.register_buffer("position_index", _relative_positions(window), persistent=False)

    def forward(
        self,
        windows: Float[Tensor, "batch windows cells channels"],
        separations: Float[Tensor, "windows cells cells"] | None,
    ) -> Float[Tensor, "batch windows cells channels"]:
        # (3, batch, windows, heads, cells, channels of a head)
        qkv = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        query, key, value = qkv.unbind(0)
        bias = self.position_bias[self.position_index].permute(2, 0, 1)
        if separations is not None:
            bias = bias + separations.unsqueeze(1)
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias.to(query.dtype)
        )
        mixed: Tensor = self.out(attended.transpose(2, 3).flatten(3))
        return mixed


class PatchMerging(nn.Module):
    """Half the side and twice the channels: 2x2 cells joined, normed and projected."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.project = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        corners = (x[:, i::2, j::2] for j in (0, 1) for i in (0, 1))
        merged: Tensor = self.project(self.norm(torch.cat(list(corners), dim=-1)))
        return merged


class PatchExpanding(nn.Module):
    """`factor` times the side: each cell is projected to factor² cells, which are normed."""

    def __init__(self, in_channels: int, out_channels: int, *, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.project = nn.Linear(in_channels, factor**2 * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        f = self.factor
        cells = self.project(x).unflatten(-1, (f, f, -1))  # (batch, height, width, f, f, out)
        expanded: Tensor = self.norm(cells.transpose(2, 3).flatten(3, 4).flatten(1, 2))
        return expanded


def to_windows(
    x: Float[Tensor, "batch side side channels"], window: int
) -> Float[Tensor, "batch windows cells channels"]:
    """The map cut into windows of `window` x `window` cells, row by row."""
    rows: Tensor = x.unflatten(1, (-1, window)).unflatten(3, (-1, window))
    return rows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_windows(
    windows: Float[Tensor, "batch windows cells channels"], window: int, side: int
) -> Float[Tensor, "batch side side channels"]:
    """The map of which `windows` are the cuts: the inverse of `to_windows`."""
    count = side // window
    rows: Tensor = windows.unflatten(1, (count, count)).unflatten(3, (window, window))
    return rows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _separations(side: int, window: int, shift: int) -> Float[Tensor, "windows cells cells"]:
    """-∞ between cells of one shifted window that lie apart in the image, else 0."""
    # Along an axis, a shifted map holds up to three runs of cells that were neighbours before.
    edges = torch.tensor([side - window, side - shift])
    run = torch.bucketize(torch.arange(side), edges, right=True)
    regions = (3 * run.unsqueeze(1) + run.unsqueeze(0)).float()
    labels = to_windows(regions[None, :, :, None], window)[0, :, :, 0]
    apart = labels.unsqueeze(1) != labels.unsqueeze(2)
    return torch.zeros(apart.shape).masked_fill(apart, -torch.inf)


def _relative_positions(window: int) -> Int[Tensor, "cells cells"]:
    """For each two cells of a window, the row of the bias table that their offset selects."""
    axis = torch.arange(window)
    row, column = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    span = 2 * window - 1
    down = row.unsqueeze(1) - row.unsqueeze(0) + window - 1
    right = column.unsqueeze(1) - column.unsqueeze(0) + window - 1
    return down * span + right

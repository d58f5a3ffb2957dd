"""The convolutional encoder of TransUNet: three stages of a ResNet-50 with group norms."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

_BLOCKS: Final = (3, 4, 9)
"""Bottlenecks a stage, as in the hybrid R50-ViT (its third stage takes over the fourth's three)."""
_GROUPS: Final = 32
_EPS: Final = 1e-6


class ResidualEncoder(nn.Module):
    """Maps of w, 4w and 8w channels at 1/2, 1/4 and 1/8 of the side, and 16w at 1/16.

    Source: Kolesnikov et al. 2020 (BiT), arXiv:1912.11370: weight-standardised
    convolutions without bias and GroupNorm, as published with TransUNet. Departure: the stem's
    max-pooling is padded, so that maps halve exactly; the published code pools without and fills
    the missing last row and column of one map with zeros. Widths below 32 have fewer groups.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _StandardisedConv2d(in_channels, width, 7, stride=2, padding=3, bias=False),
            _group_norm(width),
            nn.ReLU(),
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        before = width
        for k, blocks in enumerate(_BLOCKS):
            after = width * 4 * 2**k
            first = _Bottleneck(before, after, stride=1 if k == 0 else 2)
            others = (_Bottleneck(after, after) for _ in range(blocks - 1))
            self.stages.append(nn.Sequential(first, *others))
            before = after

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        half = self.stem(image)
        quarter = self.stages[0](self.pool(half))
        eighth = self.stages[1](quarter)
        return half, quarter, eighth, self.stages[2](eighth)


class _StandardisedConv2d(nn.Conv2d):
    """A convolution whose weights have mean 0 and variance 1 over each output's fan-in.

    Source: Qiao et al. 2019, arXiv:1903.10520; the ε of 1e-5 is TransUNet's.
    """

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-5)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a residual, a quarter as wide in the middle."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        middle = out_channels // 4
        self.body = nn.Sequential(
            _StandardisedConv2d(in_channels, middle, 1, bias=False),
            _group_norm(middle),
            nn.ReLU(),
            _StandardisedConv2d(middle, middle, 3, stride=stride, padding=1, bias=False),
            _group_norm(middle),
            nn.ReLU(),
            _StandardisedConv2d(middle, out_channels, 1, bias=False),
            _group_norm(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or stride != 1:
            self.shortcut = nn.Sequential(
                _StandardisedConv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.GroupNorm(out_channels, out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.body(x))


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_GROUPS, channels), channels, eps=_EPS)

"""Layers that more than one network is built from."""

from __future__ import annotations

import math
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fdfed.networks.base import Norm

_MAX_GROUPS: Final = 32
"""Wu & He 2018, arXiv:1803.08494: 32 groups by default."""
_MIN_GROUP_CHANNELS: Final = 4
"""Narrow layers get fewer groups, so that a group's statistics are not those of one channel."""


def norm_layer(
    norm: Norm, channels: int, *, eps: float = 1e-5, momentum: float = 0.1
) -> nn.BatchNorm2d | nn.GroupNorm:
    """BatchNorm, or GroupNorm with as many groups as `group_count` allows.

    Args:
        momentum: weight of the new batch in BatchNorm's running statistics, torch's convention.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels, eps=eps, momentum=momentum)
    return nn.GroupNorm(group_count(channels), channels, eps=eps)


def group_count(channels: int) -> int:
    """The largest divisor of `channels` that is at most 32 and leaves four channels a group."""
    limit = max(1, min(_MAX_GROUPS, channels // _MIN_GROUP_CHANNELS))
    return max(g for g in range(1, limit + 1) if channels % g == 0)


class ConvBlock(nn.Sequential):
    """Twice (3x3 convolution, norm, ReLU): the block of the U-Net family."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: Norm) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            norm_layer(norm, out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            norm_layer(norm, out_channels),
            nn.ReLU(),
        )


def he_normal_(module: nn.Module) -> None:
    """Draws the convolutions' weights from N(0, 2 / fan-in) and sets their biases to zero.

    Source: He et al. 2015, arXiv:1502.01852, Eq. 10; Ronneberger et al. 2015, section 3, asks for
    the same. The fan-in is the number of products that are summed in one output value.
    """
    if isinstance(module, nn.ConvTranspose2d):
        # Each output value meets kernel/stride taps per axis; torch's own fan counts all of them.
        reach = math.prod(k // s for k, s in zip(module.kernel_size, module.stride, strict=True))
        fan_in = module.in_channels * max(1, reach) // module.groups
    elif isinstance(module, nn.Conv2d):
        fan_in = module.in_channels * math.prod(module.kernel_size) // module.groups
    else:
        return
    nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in))
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def upsample(
    features: Float[Tensor, "batch channels height width"], *, mode: str = "bilinear"
) -> Float[Tensor, "batch channels height_2 width_2"]:
    """The map at twice the height and width."""
    if mode == "nearest":
        return nn.functional.interpolate(features, scale_factor=2, mode="nearest")
    return nn.functional.interpolate(features, scale_factor=2, mode=mode, align_corners=False)


def join(skip: Tensor, up: Tensor) -> Tensor:
    """Both maps, channel after channel, the skip connection first."""
    return torch.cat((skip, up), dim=1)

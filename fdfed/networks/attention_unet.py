"""Attention U-Net with three levels and a gate per channel, as the paper's authors released it."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

import torch
from torch import Tensor, nn

from fdfed.networks.base import Norm, SegmentationNetwork, TapSink, symmetric_taps
from fdfed.networks.layers import ConvBlock, he_normal_, join, norm_layer, upsample

_LEVELS: Final = 3


class AttentionUNet(SegmentationNetwork):
    """Attention U-Net: levels of width, 2 and 4 widths, a bottleneck of 8, bilinear upsampling.

    Source: Oktay et al. 2018, arXiv:1804.03999, in the form that the authors of the feature
    discrepancy loss released: three levels instead of four, and a gate of one value per channel
    and pixel instead of one per pixel. Departure: logits instead of probabilities.
    """

    paper_width: ClassVar[int] = 64

    def __init__(
        self,
        *,
        in_channels: int,
        width: int = paper_width,
        norm: Norm = "batch",
        size: int | None = None,
        tap_point: Literal["pre_pool", "pooled_up"] = "pre_pool",
    ) -> None:
        """See the class; `size` is checked and does not matter to the weights.

        Args:
            tap_point: what an encoder's tap is: its output before pooling, as in the other
                networks, or that output pooled and upsampled again, as in the released script.
        """
        levels = [width * 2**k for k in range(_LEVELS)]
        bottom = width * 2**_LEVELS
        super().__init__(
            in_channels=in_channels,
            norm=norm,
            taps=symmetric_taps(levels, bottom),
            size_multiple=2**_LEVELS,
            size=size,
        )
        self.tap_point = tap_point
        self.encoders = nn.ModuleList(
            ConvBlock(before, after, norm=norm)
            for before, after in zip([in_channels, *levels[:-1]], levels, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = ConvBlock(levels[-1], bottom, norm=norm)
        self.decoders = nn.ModuleList(_Decoder(c, norm=norm) for c in reversed(levels))
        self.head = nn.Conv2d(width, 1, 1)
        self.apply(he_normal_)

    def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
        x = image
        skips = []
        for k, encoder in enumerate(self.encoders, start=1):
            skip = encoder(x)
            skips.append(skip)
            x = self.pool(skip)
            taps[f"Enc{k}"] = skip if self.tap_point == "pre_pool" else upsample(x)
        taps["Bot"] = x = self.bottleneck(x)
        for k, decoder in enumerate(self.decoders, start=1):
            taps[f"Dec{k}"] = x = decoder(x, skips.pop())
        logits: Tensor = self.head(x)
        return logits


class _Decoder(nn.Module):
    """Upsamples, gates the skip connection, joins both and convolves: 2c channels to c."""

    def __init__(self, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.gate = _Gate(2 * channels, channels, norm=norm)
        self.block = ConvBlock(3 * channels, channels, norm=norm)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        up = upsample(below)
        features: Tensor = self.block(join(up, self.gate(up, skip)))
        return features


class _Gate(nn.Module):
    """s · sigmoid(ψ(ReLU(norm(W_g g) + norm(W_x s)))), all 1x1 convolutions (Oktay, section 2)."""

    def __init__(self, gating_channels: int, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.gating = nn.Sequential(
            nn.Conv2d(gating_channels, channels, 1), norm_layer(norm, channels)
        )
        self.skip = nn.Sequential(nn.Conv2d(channels, channels, 1), norm_layer(norm, channels))
        self.attention = nn.Conv2d(channels, channels, 1)

    def forward(self, gating: Tensor, skip: Tensor) -> Tensor:
        joint = torch.relu(self.gating(gating) + self.skip(skip))
        return skip * torch.sigmoid(self.attention(joint))

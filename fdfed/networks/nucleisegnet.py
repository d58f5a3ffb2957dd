"""NucleiSegNet: robust residual blocks and attention decoders for nuclei in histopathology."""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from fdfed.networks.base import Norm, SegmentationNetwork, TapSink, check_width, symmetric_taps
from fdfed.networks.layers import join, norm_layer, upsample

_LEVELS: Final = 4
_NORM_EPS: Final = 1e-3
_NORM_MOMENTUM: Final = 0.5
"""The published network's norm settings; small momentum suits its batches of four."""
_CONV_BIAS: Final = 0.1
_ENCODER_NORM_BIAS: Final = 0.01


class NucleiSegNet(SegmentationNetwork):
    """NucleiSegNet: four levels of width, 2, 4 and 8 widths, and a bottleneck of 16 widths.

    Source: Lal et al. 2021, Computers in Biology and Medicine 128:104075, doi
    10.1016/j.compbiomed.2020.104075, and its published code. As there, every convolution is
    followed by ReLU and then the norm, weights are Glorot-normal, and biases start at 0.1.
    Departure: logits instead of probabilities.
    """

    paper_width: ClassVar[int] = 32

    def __init__(
        self,
        *,
        in_channels: int,
        width: int = paper_width,
        norm: Norm = "batch",
        size: int | None = None,
    ) -> None:
        """See the class; `size` is checked and does not matter to the weights.

        Raises:
            InvalidInput: if the width is odd; the gates work on half of a level's channels.
        """
        check_width("NucleiSegNet", width, multiple=2)
        levels = [width * 2**k for k in range(_LEVELS)]
        bottom = width * 2**_LEVELS
        super().__init__(
            in_channels=in_channels,
            norm=norm,
            taps=symmetric_taps(levels, bottom),
            size_multiple=2**_LEVELS,
            size=size,
        )
        self.encoders = nn.ModuleList(
            _RobustResidual(before, after, norm=norm)
            for before, after in zip([in_channels, *levels[:-1]], levels, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = nn.Sequential(
            *_conv_relu_norm(levels[-1], bottom, norm=norm),
            *_conv_relu_norm(bottom, bottom, norm=norm),
            *_conv_relu_norm(bottom, bottom, norm=norm),
        )
        self.decoders = nn.ModuleList(_Decoder(c, norm=norm) for c in reversed(levels))
        self.head = nn.Conv2d(width, 1, 1)
        self.apply(_glorot_normal_)
        for encoder in self.encoders:
            for module in encoder.modules():
                if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                    nn.init.constant_(module.bias, _ENCODER_NORM_BIAS)

    def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
        x = image
        skips = []
        for k, encoder in enumerate(self.encoders, start=1):
            taps[f"Enc{k}"] = skip = encoder(x)
            skips.append(skip)
            x = self.pool(skip)
        taps["Bot"] = x = self.bottleneck(x)
        for k, decoder in enumerate(self.decoders, start=1):
            taps[f"Dec{k}"] = x = decoder(x, skips.pop())
        logits: Tensor = self.head(x)
        return logits


class _RobustResidual(nn.Module):
    """Convolution, separable convolution, convolution; joined with the input and convolved."""

    def __init__(self, in_channels: int, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv_relu_norm(in_channels, channels, norm=norm),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            *_conv_relu_norm(channels, channels, norm=norm, kernel=1),
            *_conv_relu_norm(channels, channels, norm=norm),
        )
        self.merge = nn.Sequential(*_conv_relu_norm(in_channels + channels, channels, norm=norm))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.merge(join(x, self.body(x)))
        return features


class _Decoder(nn.Module):
    """Up-convolution of 2c channels, gated skip connection of c, and two convolutions to c."""

    def __init__(self, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.ConvTranspose2d(2 * channels, channels, 2, stride=2), nn.ReLU())
        self.gate = _Gate(channels, norm=norm)
        self.block = nn.Sequential(
            *_conv_relu_norm(2 * channels, channels, norm=norm),
            *_conv_relu_norm(channels, channels, norm=norm),
        )

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        features: Tensor = self.block(join(self.up(below), self.gate(below, skip)))
        return features


class _Gate(nn.Module):
    """s · sigmoid(norm(ReLU(W ReLU(θ(s) + up(φ(g)))))), g from below at half the side."""

    def __init__(self, channels: int, *, norm: Norm) -> None:
        super().__init__()
        half = channels // 2
        self.phi = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1),
            nn.ReLU(),
            nn.Conv2d(channels, half, 3, padding=1),
            nn.ReLU(),
        )
        self.theta = nn.Sequential(nn.Conv2d(channels, half, 3, padding=1), nn.ReLU())
        self.attention = nn.Sequential(*_conv_relu_norm(half, channels, norm=norm, kernel=1))

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        joint = torch.relu(self.theta(skip) + upsample(self.phi(below)))
        return skip * torch.sigmoid(self.attention(joint))


def _conv_relu_norm(
    in_channels: int, out_channels: int, *, norm: Norm, kernel: int = 3
) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2),
        nn.ReLU(),
        norm_layer(norm, out_channels, eps=_NORM_EPS, momentum=_NORM_MOMENTUM),
    )


def _glorot_normal_(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.constant_(module.bias, _CONV_BIAS)

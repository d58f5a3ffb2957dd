"""CMUNet: a U-Net with ConvMixer layers at the bottom and multi-scale gates on the skips."""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from fdfed.networks.base import Norm, SegmentationNetwork, TapSink, symmetric_taps
from fdfed.networks.layers import ConvBlock, he_normal_, join, norm_layer

_LEVELS: Final = 4
_MIXER_LAYERS: Final = 7
_MIXER_KERNEL: Final = 7


class CMUNet(SegmentationNetwork):
    """CMUNet: four levels of width, 2, 4 and 8 widths, and a bottleneck of 16 widths.

    Source: Tang et al. 2023, ISBI, arXiv:2210.13012, and its published code. The tap `Bot` is the
    output of the ConvMixer layers. Departure: He-normal instead of torch's default weights.
    """

    paper_width: ClassVar[int] = 64

    def __init__(
        self,
        *,
        in_channels: int,
        width: int = paper_width,
        norm: Norm = "batch",
        size: int | None = None,
    ) -> None:
        """See the class; `size` is checked and does not matter to the weights."""
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
            ConvBlock(before, after, norm=norm)
            for before, after in zip([in_channels, *levels[:-1]], levels, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = ConvBlock(levels[-1], bottom, norm=norm)
        self.mixer = nn.Sequential(*(_MixerLayer(bottom, norm=norm) for _ in range(_MIXER_LAYERS)))
        self.gates = nn.ModuleList(_MultiScaleGate(c, norm=norm) for c in reversed(levels))
        self.ups = nn.ModuleList(_Up(2 * c, c, norm=norm) for c in reversed(levels))
        self.decoders = nn.ModuleList(ConvBlock(2 * c, c, norm=norm) for c in reversed(levels))
        self.head = nn.Conv2d(width, 1, 1)
        self.apply(he_normal_)

    def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
        x = image
        skips = []
        for k, encoder in enumerate(self.encoders, start=1):
            taps[f"Enc{k}"] = skip = encoder(x)
            skips.append(skip)
            x = self.pool(skip)
        taps["Bot"] = x = self.mixer(self.bottleneck(x))
        stages = zip(self.ups, self.gates, self.decoders, strict=True)
        for k, (up, gate, decoder) in enumerate(stages, start=1):
            taps[f"Dec{k}"] = x = decoder(join(gate(skips.pop()), up(x)))
        logits: Tensor = self.head(x)
        return logits


class _MixerLayer(nn.Module):
    """Depthwise 7x7 with a residual, then 1x1; each followed by GELU and norm.

    Source: Trockman & Kolter 2022, arXiv:2201.09792, section 2.
    """

    def __init__(self, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(
            nn.Conv2d(
                channels, channels, _MIXER_KERNEL, padding=_MIXER_KERNEL // 2, groups=channels
            ),
            nn.GELU(),
            norm_layer(norm, channels),
        )
        self.pointwise = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.GELU(), norm_layer(norm, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.pointwise(x + self.depthwise(x))
        return mixed


class _MultiScaleGate(nn.Module):
    """s + s · sigmoid(vote(branches of s with a reach of 1, 3 and 5 pixels))."""

    def __init__(self, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, kernel, padding=padding, dilation=dilation),
                norm_layer(norm, channels),
            )
            for kernel, padding, dilation in ((1, 0, 1), (3, 1, 1), (3, 2, 2))
        )
        self.vote = nn.Sequential(nn.Conv2d(3 * channels, channels, 1), norm_layer(norm, channels))

    def forward(self, skip: Tensor) -> Tensor:
        scales = torch.relu(torch.cat([branch(skip) for branch in self.branches], dim=1))
        return skip + skip * torch.sigmoid(self.vote(scales))


class _Up(nn.Sequential):
    """Nearest-neighbour doubling, 3x3 convolution, norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: Norm) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            norm_layer(norm, out_channels),
            nn.ReLU(),
        )

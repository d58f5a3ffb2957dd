"""U-Net with padded convolutions and a norm after each (Ronneberger et al. 2015)."""

from __future__ import annotations

from typing import ClassVar, Final

from torch import Tensor, nn

from fdfed.networks.base import Norm, SegmentationNetwork, TapSink, symmetric_taps
from fdfed.networks.layers import ConvBlock, he_normal_, join

_LEVELS: Final = 4


class UNet(SegmentationNetwork):
    """U-Net: four levels of width, 2, 4 and 8 widths, and a bottleneck of 16 widths.

    Source: Ronneberger et al. 2015, arXiv:1505.04597, Fig. 1 and section 3 (initialisation).
    Departures, as in most later work: convolutions are padded, so that the output has the input's
    size; each is followed by a norm; one logit per pixel instead of two classes; no dropout.
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
        self.ups = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in levels[::-1])
        self.decoders = nn.ModuleList(ConvBlock(2 * c, c, norm=norm) for c in levels[::-1])
        self.head = nn.Conv2d(width, 1, 1)
        self.apply(he_normal_)

    def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
        x = image
        skips = []
        for k, encoder in enumerate(self.encoders, start=1):
            taps[f"Enc{k}"] = skip = encoder(x)
            skips.append(skip)
            x = self.pool(skip)
        taps["Bot"] = x = self.bottleneck(x)
        for k, (up, decoder) in enumerate(zip(self.ups, self.decoders, strict=True), start=1):
            taps[f"Dec{k}"] = x = decoder(join(skips.pop(), up(x)))
        logits: Tensor = self.head(x)
        return logits

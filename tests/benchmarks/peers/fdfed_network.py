"""The comparison's U-Net as a network of fdfed: the same layers, and the outermost maps as taps."""

from __future__ import annotations

from torch import Tensor
from work import Model

from fdfed.networks import Norm, SegmentationNetwork, Tap, TapSink


class PeersUNet(SegmentationNetwork):
    """MONAI's residual U-Net with one output channel of logits."""

    paper_width = 16

    def __init__(
        self, *, in_channels: int, width: int, norm: Norm, size: int | None = None
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            norm=norm,
            taps={"Dec1": Tap(1, 1)},
            size_multiple=16,
            size=size,
        )
        self.model = Model(out_channels=1)

    def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
        taps["Dec1"] = logits = self.model(image)
        return logits

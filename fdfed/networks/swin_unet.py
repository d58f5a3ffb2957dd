"""Swin-UNet: a U-Net whose levels are Swin transformer blocks."""

from __future__ import annotations

from bisect import bisect
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from fdfed.errors import InvalidInput
from fdfed.networks.base import Norm, SegmentationNetwork, Tap, TapSink
from fdfed.networks.swin_blocks import PatchExpanding, PatchMerging, SwinBlock

_PATCH: Final = 4
_LEVELS: Final = 4
"""Levels of the encoder with the bottom one: maps at 1/4, 1/8, 1/16 and 1/32."""
_DEPTH: Final = 2
"""Blocks a level, the second one shifted."""
_HEAD_CHANNELS: Final = 32
_DROP_PATH: Final = 0.2
"""Of the last encoder block; it grows linearly from 0 at the first (published configuration)."""
_DEFAULT_SIZE: Final = 224
_WINDOWS: Final = (7, 8)
"""The published side of a window, in cells, and the one for sides that are powers of two."""
_LARGEST_SIZE: Final = 4096


class SwinUNet(SegmentationNetwork):
    """Swin-UNet tiny: levels of width, 2 and 4 widths, 8 at the bottom; patches of 4 x 4 pixels.

    Source: Cao et al. 2021, arXiv:2105.05537, and its published code. A tap is the output of a
    level's blocks, before patches are merged or expanded; the first is at 1/4 of the side. `norm`
    is accepted and has no effect: the network has layer norms only.

    Windows are of 7 cells, which needs a size that is a multiple of 224, or else of 8, for
    multiples of 256. As in the published code, a level that is smaller than a window is one
    window, which admits 32, 64 and 128. Weights fit one size. Departures: no pretrained weights;
    heads of 32 channels at every width (at 96 the published 3, 6, 12 and 24 of them).
    """

    paper_width: ClassVar[int] = 96
    has_batch_norm: ClassVar[bool] = False

    def __init__(
        self,
        *,
        in_channels: int,
        width: int = paper_width,
        norm: Norm = "batch",
        size: int | None = None,
    ) -> None:
        """See the class.

        Args:
            size: side of the images; None is 224.

        Raises:
            InvalidInput: if no window size divides the maps of all levels.
        """
        size = _DEFAULT_SIZE if size is None else size
        window = _window_of(size)
        channels = [width * 2**k for k in range(_LEVELS)]
        strides = [_PATCH * 2**k for k in range(_LEVELS)]
        *upper, bottom = (Tap(c, stride) for c, stride in zip(channels, strides, strict=True))
        super().__init__(
            in_channels=in_channels,
            norm=norm,
            taps={
                **{f"Enc{k}": tap for k, tap in enumerate(upper, start=1)},
                "Bot": bottom,
                **{f"Dec{k}": tap for k, tap in enumerate(reversed(upper), start=1)},
            },
            size_multiple=strides[-1],
            size=size,
            fixed_size=True,
        )

        def level(k: int) -> nn.Sequential:
            side = size // strides[k]
            return nn.Sequential(
                *(
                    SwinBlock(
                        channels[k],
                        side=side,
                        window=min(window, side),
                        heads=_heads(width) * 2**k,
                        shifted=i % 2 == 1,
                        drop_path=_DROP_PATH * (_DEPTH * k + i) / (_DEPTH * _LEVELS - 1),
                    )
                    for i in range(_DEPTH)
                )
            )

        self.embedding = nn.Conv2d(in_channels, width, _PATCH, stride=_PATCH)
        self.embedding_norm = nn.LayerNorm(width)
        self.encoders = nn.ModuleList(level(k) for k in range(_LEVELS))
        self.merges = nn.ModuleList(PatchMerging(c) for c in channels[:-1])
        self.bottom_norm = nn.LayerNorm(channels[-1])
        self.expands = nn.ModuleList(
            PatchExpanding(2 * c, c, factor=2) for c in reversed(channels[:-1])
        )
        self.joins = nn.ModuleList(nn.Linear(2 * c, c) for c in reversed(channels[:-1]))
        self.decoders = nn.ModuleList(level(k) for k in reversed(range(_LEVELS - 1)))
        self.top_norm = nn.LayerNorm(width)
        self.to_pixels = PatchExpanding(width, width, factor=_PATCH)
        self.head = nn.Conv2d(width, 1, 1, bias=False)
        self.apply(_init_linear_)

    def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
        def tap(name: str, x: Tensor) -> Tensor:
            """Notes the map, channels second, and goes on through it: a gradient at the tap is
            then the gradient of all that follows."""
            taps[name] = features = x.permute(0, 3, 1, 2)
            return features.permute(0, 2, 3, 1)

        x = self.embedding_norm(self.embedding(image).permute(0, 2, 3, 1))
        skips = []
        for k, (encoder, merge) in enumerate(zip(self.encoders, self.merges, strict=False), 1):
            skips.append(x)
            x = merge(tap(f"Enc{k}", encoder(x)))
        x = tap("Bot", self.bottom_norm(self.encoders[-1](x)))
        stages = zip(self.expands, self.joins, self.decoders, strict=True)
        for k, (expand, join, decoder) in enumerate(stages, start=1):
            joined = join(torch.cat((expand(x), skips.pop()), dim=-1))
            x = tap(f"Dec{k}", decoder(joined))
        pixels = self.to_pixels(self.top_norm(x))
        logits: Tensor = self.head(pixels.permute(0, 3, 1, 2))
        return logits


def _window_of(size: int) -> int:
    """The window's side in cells for images of `size` pixels.

    Raises:
        InvalidInput: if there is none, with the nearest sizes that have one.
    """
    for window in _WINDOWS:
        if _fits(size, window):
            return window
    sizes = [
        s for s in range(_PATCH, _LARGEST_SIZE + 1, _PATCH) if any(_fits(s, w) for w in _WINDOWS)
    ]
    place = bisect(sizes, size)
    raise InvalidInput(
        f"SwinUNet got a side of {size} pixels, whose maps no window of 7 or 8 cells divides. "
        f"Use {' or '.join(str(s) for s in sizes[max(0, place - 1) : place + 1])}"
    )


def _fits(size: int, window: int) -> bool:
    """Whether windows of at most `window` cells divide the maps of all levels."""
    strides = [_PATCH * 2**k for k in range(_LEVELS)]
    sides = [size // stride for stride in strides]
    return size % strides[-1] == 0 and all(
        side > 0 and side % min(window, side) == 0 for side in sides
    )


def _heads(width: int) -> int:
    """Heads of the first level: as many of 32 channels as `width` holds, if they divide it."""
    most = max(1, width // _HEAD_CHANNELS)
    return max(heads for heads in range(1, most + 1) if width % heads == 0)


def _init_linear_(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

"""TransUNet: a ResNet-50, a vision transformer on its last map, and a U-Net decoder."""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from fdfed.networks.base import Norm, SegmentationNetwork, Tap, TapSink, check_width
from fdfed.networks.layers import he_normal_, norm_layer
from fdfed.networks.residual_encoder import ResidualEncoder

_LAYERS: Final = 12
_HEADS: Final = 12
_MLP_RATIO: Final = 4
_DROPOUT: Final = 0.1
_EPS: Final = 1e-6
_STRIDE: Final = 16
_DEFAULT_SIZE: Final = 256


class TransUNet(SegmentationNetwork):
    """TransUNet with R50-ViT-B/16: 12 layers of 12 heads on the cells of the 1/16 map.

    A width of w gives stages of w, 4w, 8w and 16w channels, tokens of 12w, and decoders of 4w,
    2w, w and w/4. `Bot` is the transformer's output as a map of 8w channels; the encoder has no
    map, hence no tap, at full size.

    Source: Chen et al. 2021, arXiv:2102.04306, section 3, and its published code. Departures: no
    pretrained weights; see also `ResidualEncoder`. Its position embedding fits one image size, 256
    by default. `norm` concerns the decoder only: the encoder has group norms as published, the
    transformer layer norms.
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
        """See the class.

        Args:
            size: side of the images, a multiple of 16; None is 256.

        Raises:
            InvalidInput: if the width is no multiple of 4, or the size none of 16.
        """
        check_width("TransUNet", width, multiple=4)
        size = _DEFAULT_SIZE if size is None else size
        decoded = [4 * width, 2 * width, width, width // 4]
        skips = [8 * width, 4 * width, width, 0]
        super().__init__(
            in_channels=in_channels,
            norm=norm,
            taps={
                **{f"Enc{k}": Tap(c, 2**k) for k, c in enumerate(skips[2::-1], start=1)},
                "Bot": Tap(8 * width, _STRIDE),
                **{f"Dec{k}": Tap(c, _STRIDE // 2**k) for k, c in enumerate(decoded, start=1)},
            },
            size_multiple=_STRIDE,
            size=size,
            fixed_size=True,
        )
        tokens = 12 * width
        self.encoder = ResidualEncoder(in_channels, width)
        self.embedding = nn.Conv2d(16 * width, tokens, 1)
        self.position = nn.Parameter(torch.zeros(1, (size // _STRIDE) ** 2, tokens))
        self.dropout = nn.Dropout(_DROPOUT)
        self.layers = nn.Sequential(*(_Layer(tokens) for _ in range(_LAYERS)))
        self.token_norm = nn.LayerNorm(tokens, eps=_EPS)
        self.bottleneck = nn.Sequential(*_conv_norm_relu(tokens, 8 * width, norm=norm))
        self.decoders = nn.ModuleList(
            _Decoder(before + skip, after, norm=norm)
            for before, skip, after in zip([8 * width, *decoded[:-1]], skips, decoded, strict=True)
        )
        self.head = nn.Conv2d(decoded[-1], 1, 3, padding=1)
        self.apply(he_normal_)
        self.apply(_init_linear_)

    def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
        half, quarter, eighth, sixteenth = self.encoder(image)
        taps["Enc1"], taps["Enc2"], taps["Enc3"] = half, quarter, eighth
        grid = self.embedding(sixteenth)
        tokens = self.dropout(grid.flatten(2).mT + self.position)
        tokens = self.token_norm(self.layers(tokens))
        taps["Bot"] = x = self.bottleneck(tokens.mT.unflatten(2, grid.shape[2:]))
        skips = (eighth, quarter, half, None)
        for k, (decoder, skip) in enumerate(zip(self.decoders, skips, strict=True), start=1):
            taps[f"Dec{k}"] = x = decoder(x, skip)
        logits: Tensor = self.head(x)
        return logits


class _Layer(nn.Module):
    """Self-attention and a two-layer perceptron, each after a LayerNorm and with a residual.

    Source: Dosovitskiy et al. 2021, arXiv:2010.11929, Eq. 2-3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, eps=_EPS)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels, eps=_EPS),
            nn.Linear(channels, _MLP_RATIO * channels),
            nn.GELU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(_MLP_RATIO * channels, channels),
            nn.Dropout(_DROPOUT),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.attention_norm(tokens)
        heads = (
            project(x).unflatten(-1, (_HEADS, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(*heads)
        tokens = tokens + self.out(attended.transpose(1, 2).flatten(2))
        mixed: Tensor = tokens + self.mlp(tokens)
        return mixed


class _Decoder(nn.Module):
    """Bilinear doubling, joined with a skip connection if there is one, and two convolutions."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.block = nn.Sequential(
            *_conv_norm_relu(in_channels, out_channels, norm=norm),
            *_conv_norm_relu(out_channels, out_channels, norm=norm),
        )

    def forward(self, below: Tensor, skip: Tensor | None) -> Tensor:
        x = self.up(below)
        features: Tensor = self.block(x if skip is None else torch.cat((x, skip), dim=1))
        return features


def _conv_norm_relu(in_channels: int, out_channels: int, *, norm: Norm) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        norm_layer(norm, out_channels),
        nn.ReLU(),
    )


def _init_linear_(module: nn.Module) -> None:
    """Glorot-uniform weights, as the published code has them in the perceptrons; biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)

"""Contrastive losses that the discrepancy loss is compared with (L_con).

The paper names Chaitanya et al. and gives no settings, so a table must say which form it used:
`supervised_pixel_loss`, which sees the masks as L_fd does, or the two self-supervised ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from fdfed.errors import InvalidInput
from fdfed.prototypes import tap_regions

TEMPERATURE: Final = 0.1
"""τ of Chaitanya et al. 2020, and of Khosla et al. 2020."""
EMBEDDING: Final = 128
"""Length of a projected vector, in both."""
PIXELS: Final = 256
"""Cells that are drawn of each class: the matrix of products stays small."""
_HIDDEN: Final = 1024
_REGION: Final = 3
"""Side of a local region, in cells."""


def global_contrastive_loss(
    first: Float[Tensor, "batch embedding"],
    second: Float[Tensor, "batch embedding"],
    *,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, ""]:
    """The mean over all 2n embeddings z_i of two views of n images of

        -log( exp(<z_i, z_j> / τ) / Σ_{k≠i} exp(<z_i, z_k> / τ) ),   z_j the other view of z_i

    with the z scaled to length 1: each image is drawn to its other view and away from the rest.

    Source: Chaitanya et al. 2020, arXiv:2006.10511, Eq. 1, with all other images of the batch as
    negatives; equal to NT-Xent (Chen et al. 2020, arXiv:2002.05709, Eq. 1). Zero, connected to the
    graph, for one image, which has no negatives.
    """
    if len(first) < 2:
        return 0 * (first.sum() + second.sum())
    views = torch.cat((_directions(first), _directions(second)))
    partner = torch.arange(len(views), device=views.device).roll(len(first))
    return _pick_out(_products(views, views) / temperature, partner)


def local_contrastive_loss(
    first: Float[Tensor, "batch regions embedding"],
    second: Float[Tensor, "batch regions embedding"],
    *,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, ""]:
    """As `global_contrastive_loss`, for the regions of one image against each other, and then the
    mean over images: each region is drawn to itself in the other view.

    Source: Chaitanya et al. 2020, Eq. 3. Departure: all other regions of both views are negatives;
    the published code draws five.
    """
    if first.shape[1] < 2:
        return 0 * (first.sum() + second.sum())
    views = torch.cat((_directions(first), _directions(second)), dim=1)
    partner = torch.arange(views.shape[1], device=views.device).roll(first.shape[1])
    return _pick_out(_products(views, views) / temperature, partner)


def supervised_pixel_loss(
    embeddings: Float[Tensor, "batch embedding tap_height tap_width"],
    mask: Shaped[Tensor, "batch 1 height width"],
    *,
    generator: torch.Generator,
    pixels: int = PIXELS,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, ""]:
    """The supervised contrastive loss over cells of a batch's map, drawn from both classes:

        mean_i  -1/|P_i| Σ_{p in P_i} log( exp(<z_i, z_p> / τ) / Σ_{a≠i} exp(<z_i, z_a> / τ) )

    with P_i the other drawn cells of i's class, and the z scaled to length 1.

    Source: Khosla et al. 2020, arXiv:2004.11362, Eq. 2, with foreground and background as labels.
    Zero, connected to the graph, unless each class has two cells.

    Args:
        embeddings: a tap after its projection; carries the gradient.
        mask: of the full image; max-pooled to the tap, as for the prototypes.
        generator: draws the cells, on the CPU.
        pixels: largest number of cells drawn of each class from the whole batch.
    """
    drawn = _draw_both(mask, embeddings.shape[-2:], pixels, generator)
    if drawn is None:
        return 0 * embeddings.sum()
    return _contrast(_cells(embeddings, torch.cat(drawn)), len(drawn[0]), temperature)


class PixelContrast(nn.Module):
    """`supervised_pixel_loss` of all taps, through a 1x1 convolution to 128 channels for each.

    The drawn cells alone are projected: at full resolution 128 channels of every cell would cost
    more memory than the network.
    """

    def __init__(self, tap_channels: Mapping[str, int], *, embedding: int = EMBEDDING) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {name: nn.Conv2d(channels, embedding, 1) for name, channels in tap_channels.items()}
        )

    def forward(
        self, taps: Mapping[str, Tensor], mask: Tensor, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """The mean over taps."""
        losses = [
            self._of_tap(head, taps[name], mask, generator) for name, head in self.heads.items()
        ]
        return torch.stack(losses).mean()

    @staticmethod
    def _of_tap(
        head: nn.Module, features: Tensor, mask: Tensor, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        drawn = _draw_both(mask, features.shape[-2:], PIXELS, generator)
        if drawn is None:
            # One cell of each map keeps the graph whole; a sum over all could overflow.
            return 0 * features[:, :, 0, 0].float().sum()
        # To a 1x1 convolution each cell is an image of one pixel.
        z = head(_cells(features, torch.cat(drawn))[..., None, None]).flatten(1)
        return _contrast(z, len(drawn[0]), TEMPERATURE)


class GlobalHead(nn.Sequential):
    """A bottleneck map to an embedding: flattened, 1024 hidden units with ReLU, 128 outputs."""

    def __init__(self, channels: int, side: int, *, embedding: int = EMBEDDING) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(channels * side**2, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, embedding),
        )


class LocalHead(nn.Module):
    """A decoder's map to embeddings of some of its 3 x 3 regions.

    Source: Chaitanya et al. 2020, section 3: a 1x1 convolution, then a projection of each
    region, of which 13 are used. Departure: regions are drawn from the map's tiling anew for each
    call, where the published code has fixed places.
    """

    def __init__(self, channels: int, *, embedding: int = EMBEDDING, regions: int = 13) -> None:
        super().__init__()
        self.regions = regions
        self.mix = nn.Conv2d(channels, channels, 1)
        self.project = nn.Linear(channels * _REGION**2, embedding)

    def places(
        self, features: Float[Tensor, "batch channels height width"], generator: torch.Generator
    ) -> Int[Tensor, " regions"]:
        """Places of regions in the map's tiling, to be given to both views alike.

        Raises:
            InvalidInput: if the map has fewer than two regions.
        """
        height, width = features.shape[-2:]
        count = (height // _REGION) * (width // _REGION)
        if count < 2:
            raise InvalidInput(
                f"the local contrastive head got a map of {height} x {width} cells, which holds "
                f"{count} region(s) of 3 x 3; it needs two. Give it the tap of a later decoder"
            )
        return torch.randperm(count, generator=generator)[: self.regions].to(features.device)

    def forward(
        self,
        features: Float[Tensor, "batch channels height width"],
        places: Int[Tensor, " regions"],
    ) -> Float[Tensor, "batch regions embedding"]:
        """The embeddings of the regions at `places`."""
        tiles = functional.unfold(self.mix(features), _REGION, stride=_REGION)
        embeddings: Tensor = self.project(tiles[..., places].mT)
        return embeddings


def _directions(vectors: Tensor) -> Tensor:
    """Each row over its length, in at least fp32."""
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    return functional.normalize(vectors.to(dtype), dim=-1)


def _products(x: Tensor, y: Tensor) -> Tensor:
    """<x_i, y_j>. Autocast would round them, and τ = 0.1 makes tenfold of the error."""
    with torch.autocast(x.device.type, enabled=False):
        return x @ y.mT


def _pick_out(
    logits: Float[Tensor, "*batch rows rows"], partner: Int[Tensor, " rows"]
) -> Float[Tensor, ""]:
    """The mean cross-entropy of finding each row's partner among all other rows."""
    rows = torch.arange(len(partner), device=partner.device)
    return (_log_sum_of_others(logits) - logits[..., rows, partner]).mean()


def _log_sum_of_others(logits: Float[Tensor, "*batch rows rows"]) -> Float[Tensor, "*batch rows"]:
    own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    return logits.masked_fill(own, -torch.inf).logsumexp(-1)


def _contrast(
    embeddings: Float[Tensor, "cells embedding"], foreground: int, temperature: float
) -> Float[Tensor, ""]:
    """The supervised contrastive loss of rows of which the first `foreground` are of one class
    and all others of the other."""
    z = _directions(embeddings)
    logits = _products(z, z) / temperature
    label = torch.arange(len(z), device=z.device) < foreground
    # A class of n cells gives each of its cells n - 1 partners.
    same = (label.unsqueeze(0) == label.unsqueeze(1)).fill_diagonal_(False)
    log_share = logits - _log_sum_of_others(logits).unsqueeze(-1)
    return -(log_share.where(same, 0).sum(-1) / same.sum(-1)).mean()


def _cells(
    features: Float[Tensor, "batch channels height width"], places: Int[Tensor, " cells"]
) -> Float[Tensor, "cells channels"]:
    """The vectors at `places` of the flattened batch, without a copy of the map."""
    height, width = features.shape[-2:]
    image, cell = places // (height * width), places % (height * width)
    return features.permute(0, 2, 3, 1)[image, cell // width, cell % width]


def _draw_both(
    mask: Shaped[Tensor, "batch 1 height width"],
    size: torch.Size,
    most: int,
    generator: torch.Generator,
) -> tuple[Int[Tensor, " foreground"], Int[Tensor, " background"]] | None:
    """Places of drawn cells of each class; None unless each has two."""
    regions = tap_regions(mask.to(torch.float32), size, "max") > 0
    foreground, background = (_draw(regions[:, row], most, generator) for row in (0, 1))
    return (foreground, background) if min(len(foreground), len(background)) >= 2 else None


def _draw(
    region: Bool[Tensor, "batch cells"], most: int, generator: torch.Generator
) -> Int[Tensor, " drawn"]:
    """Up to `most` of the region's cells, as places in the flattened batch."""
    places = region.flatten().nonzero().squeeze(-1)
    order = torch.randperm(len(places), generator=generator)[:most]
    return places[order.to(places.device)]

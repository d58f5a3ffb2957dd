"""The prototypes of all taps of a network at once, taken while it computes its maps.

What is done for each tap in turn costs a GPU more in calls than in arithmetic: prototypes are a few
numbers. So a tap is read by one product of matrices, and everything after it is done for all taps
together, their channels padded with zeros to those of the widest.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from fdfed.errors import InvalidInput
from fdfed.exchange.layout import TapLayout
from fdfed.prototypes import MaskPooling, Pooling, region_sums, tap_regions


class TapPrototypes(NamedTuple):
    """`masked_prototypes` of every tap; channels that a tap does not have are zero."""

    foreground: Float[Tensor, "batch taps widest"]
    background: Float[Tensor, "batch taps widest"]
    valid: Bool[Tensor, "batch taps"]


class _Regions(NamedTuple):
    """Of the taps of one size."""

    weights: Float[Tensor, "batch 2 cells"]
    cells: Float[Tensor, "batch 2"]


class TapReader:
    """Takes the maps of a network as it computes them, `network.forward_into(image, reader)`, and
    has `prototypes()` once it has them all.

    Args:
        layout: the network's taps.
        mask: the annotation of the full images, 1 = foreground.
        pooling: as for `masked_prototypes`.
        mask_pooling: likewise.
        measured: taps whose prototypes carry no gradient.
    """

    def __init__(
        self,
        layout: TapLayout,
        mask: Shaped[Tensor, "batch 1 height width"],
        *,
        pooling: Pooling = "map",
        mask_pooling: MaskPooling = "max",
        measured: Collection[str] = (),
    ) -> None:
        self._layout = layout
        self._widths = dict(zip(layout.names, layout.channels, strict=True))
        self._mask = mask.detach()
        self._pooling = pooling
        self._mask_pooling: MaskPooling = mask_pooling
        self._measured = frozenset(measured)
        self._regions: dict[tuple[torch.Size, torch.dtype], _Regions] = {}
        self._sums: dict[str, Float[Tensor, "batch channels 2"]] = {}
        self._cells: dict[str, Float[Tensor, "batch 2"]] = {}

    def __setitem__(self, name: str, features: Float[Tensor, "batch channels h w"], /) -> None:
        """Reads the map of a tap.

        Raises:
            InvalidInput: if it is not of the layout's width, or of another batch than the mask.
        """
        if tuple(features.shape[:2]) != (len(self._mask), self._widths.get(name)):
            raise InvalidInput(
                f"the tap {name} is {tuple(features.shape)} beside a mask of "
                f"{tuple(self._mask.shape)}; the layout has the channels {self._widths}. A network "
                "must hand over the taps that it announced"
            )
        if name in self._measured:
            features = features.detach()
        # Under autocast the product would run, and round its result, in half precision.
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(torch.promote_types(features.dtype, torch.float32))
            regions = self._regions_of(features)
            self._sums[name] = region_sums(
                regions.weights, features, partition=self._mask_pooling == "max"
            )
            self._cells[name] = regions.cells

    def _regions_of(self, features: Tensor) -> _Regions:
        key = (features.shape[-2:], features.dtype)
        if key not in self._regions:
            with torch.no_grad():
                weights = tap_regions(self._mask.to(features.dtype), key[0], self._mask_pooling)
                self._regions[key] = _Regions(weights, weights.sum(-1))
        return self._regions[key]

    def prototypes(self) -> TapPrototypes:
        """F_g and B_g of each image at every tap, in the layout's order.

        Raises:
            InvalidInput: if a tap is missing.
        """
        missing = [name for name in self._layout.names if name not in self._sums]
        if missing:
            raise InvalidInput(
                f"the taps {', '.join(missing)} are missing; a network must hand over the taps "
                "that it announced"
            )
        sums = [self._sums[name] for name in self._layout.names]
        cells = torch.stack([self._cells[name] for name in self._layout.names], dim=1)
        blank = sums[0].new_zeros(len(self._mask), 1, 2)
        places = _places(self._layout.channels, sums[0].device)
        padded = torch.cat([*sums, blank], dim=1).index_select(1, places.flatten())
        padded = padded.unflatten(1, (places.shape[0], places.shape[1]))
        if self._pooling == "map":
            padded = padded / cells.clamp_min(1).unsqueeze(2)
        foreground, background = padded.unbind(-1)
        return TapPrototypes(foreground, background, (cells > 0).all(-1))


def pack_prototypes(
    layout: TapLayout,
    foreground: Float[Tensor, "taps widest"],
    background: Float[Tensor, "taps widest"],
) -> Float[Tensor, " size"]:
    """The batch means of all taps, padded as in `TapPrototypes`, as the one vector of the layout;
    it stays connected to their graph.

    Raises:
        InvalidInput: if they are not the layout's taps.
    """
    padded = (len(layout.channels), max(layout.channels))
    for part, means in (("foreground", foreground), ("background", background)):
        if tuple(means.shape) != padded:
            raise InvalidInput(
                f"the {part} prototypes to pack are {tuple(means.shape)} but the layout has "
                f"{padded[0]} taps, the widest of {padded[1]}; pass the batch means of exactly the "
                "layout's taps"
            )
    own = _own(layout.channels, foreground.device)
    both = torch.stack((foreground.flatten(), background.flatten()))
    return both.index_select(1, own).flatten()


@lru_cache(maxsize=32)
def _own(channels: tuple[int, ...], device: torch.device) -> Int[Tensor, " channels"]:
    """Where in a padded row of taps the channels are that a tap has."""
    places = _places(channels, device).flatten()
    return (places < sum(channels)).nonzero().flatten()


@lru_cache(maxsize=32)
def _places(channels: tuple[int, ...], device: torch.device) -> Int[Tensor, "taps widest"]:
    """Where each channel of each tap is among all channels of all taps one after the other; for a
    channel that a tap does not have, the place behind the last."""
    places = torch.full((len(channels), max(channels)), sum(channels))
    start = 0
    for row, width in zip(places, channels, strict=True):
        row[:width] = torch.arange(start, start + width)
        start += width
    return places.to(device)

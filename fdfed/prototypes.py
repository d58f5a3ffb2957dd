"""Foreground and background prototypes: one vector each for an image and a tap.

F_g and B_g of the paper's Definition 1, by masked average pooling.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fdfed.errors import InvalidInput

Pooling = Literal["map", "sum"]
MaskPooling = Literal["max", "dual_max"]

_SQUARED_NORM_FLOOR: Final = 1e-12
"""Added to |p|² before the square root in `unit_vectors`: a dead feature map gives p = 0, where
the derivative of |p| does not exist. It shortens a vector of length 1e-3 by one part in 10⁶."""


def masked_prototypes(
    features: Float[Tensor, "batch channels tap_height tap_width"],
    mask: Shaped[Tensor, "batch 1 height width"],
    *,
    pooling: Pooling = "map",
    mask_pooling: MaskPooling = "max",
) -> tuple[
    Float[Tensor, "batch channels"], Float[Tensor, "batch channels"], Bool[Tensor, " batch"]
]:
    """F_g and B_g of each image, and whether both exist: `(foreground, background, valid)`.

        F_g[c] = Σ_ij F[c,i,j] ỹ[i,j] / Σ_ij ỹ[i,j]      (sums over the cells of the tap)
        B_g[c] = Σ_ij F[c,i,j] (1 - ỹ[i,j]) / Σ_ij (1 - ỹ[i,j])

    with ỹ the mask, max-pooled to the tap's size: a cell is foreground if any of its pixels is.
    An image is valid if it has at least one foreground and one background cell; the prototypes of
    one that is not are finite and mean nothing.

    Source: Definition 1 and section 3.2.1 of the paper. Departures: (1) the definition writes sums
    over pixels; the default divides by the number of cells, because with sums a constant feature
    map, in which foreground and background are alike, still has |F_g - B_g| > 0 wherever their
    areas differ. `pooling="sum"` is the literal form. (2) The definition sums F_g, not B_g, over
    channels; both are vectors here, as the text below the definition uses them.

    Args:
        features: a tap; carries the gradient. The arithmetic is at least fp32, also under
            autocast: in fp16 the sum over a 512 x 512 map overflows.
        mask: the annotation of the full image, 1 = foreground and 0 = background.
        pooling: `map` divides by the cells, `sum` does not.
        mask_pooling: `max` as above. With `dual_max` a cell with pixels of both kinds counts as
            neither, where `max` calls it foreground. The background is the same in both; the
            foreground becomes purer, and thin structures may leave none.

    Raises:
        InvalidInput: if features and mask are not one map and one mask for each image.
    """
    if features.ndim != 4 or mask.ndim != 4 or mask.shape[:2] != (features.shape[0], 1):
        raise InvalidInput(
            f"masked_prototypes got features {tuple(features.shape)} and mask "
            f"{tuple(mask.shape)}; they must be (batch, channels, height, width) and (batch, 1, "
            "height, width) with the same batch. Give one mask for each image"
        )
    # Under autocast the product would run, and round its result, in half precision.
    with torch.autocast(features.device.type, enabled=False):
        dtype = torch.promote_types(features.dtype, torch.float32)
        regions = tap_regions(mask.detach().to(dtype), features.shape[-2:], mask_pooling)
        # A total less the foreground would lose the digits of a small background.
        sums = region_sums(regions, features.to(dtype), partition=mask_pooling == "max")
        cells = regions.sum(-1)
        if pooling == "map":
            sums = sums / cells.clamp_min(1).unsqueeze(1)
        foreground, background = sums.unbind(-1)
        return foreground, background, (cells > 0).all(-1)


def tap_regions(
    mask: Float[Tensor, "batch 1 height width"], size: torch.Size, mask_pooling: MaskPooling
) -> Float[Tensor, "batch 2 cells"]:
    """1 where a cell counts as foreground (row 0) and as background (row 1), else 0.

    Pooling is adaptive, so that a tap's side need not divide the mask's.
    """
    foreground = _max_pool(mask, size)
    if mask_pooling == "max":
        return torch.cat((foreground, 1 - foreground), dim=1)
    background = _max_pool(1 - mask, size)
    return torch.cat((foreground * (1 - background), background * (1 - foreground)), dim=1)


def region_sums(
    regions: Float[Tensor, "batch 2 cells"],
    features: Float[Tensor, "batch channels height width"],
    *,
    partition: bool = False,
) -> Float[Tensor, "batch channels 2"]:
    """Σ_ij F[c,i,j] m[i,j] for both regions m.

    The gradient has the layout in memory that the features have: another one would slow down every
    operation behind it in the backward pass, which then meets gradients of two layouts.

    Args:
        partition: whether every cell is of just one of the regions; the gradient then takes one
            pass over the map in place of two.
    """
    sums: Tensor = _RegionSums.apply(features, regions, partition)  # type: ignore[no-untyped-call]
    return sums


class _RegionSums(torch.autograd.Function):
    """`region_sums`, with its gradient: that of a cell is the one of the region that it is in.

    As a product of matrices the gradient was as good; the product itself was not on a GPU, whose
    matrix units wait where two rows meet a sum over a whole map.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, regions: Tensor, partition: bool) -> Tensor:
        ctx.save_for_backward(regions)
        ctx.size, ctx.partition = features.shape[-2:], partition
        ctx.channels_last = not features.is_contiguous()
        return _sums_by_row(features, regions) if ctx.channels_last else _sums(features, regions)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        [regions] = ctx.saved_tensors
        # (batch, height, width, channels) or (batch, channels, height, width), as the features lie.
        if ctx.channels_last:
            cells = [m.unflatten(1, ctx.size).unsqueeze(-1) for m in regions.unbind(1)]
            values = [g[:, None, None, :] for g in gradient.unbind(-1)]
        else:
            cells = [m.unflatten(1, ctx.size).unsqueeze(1) for m in regions.unbind(1)]
            values = [g[:, :, None, None] for g in gradient.unbind(-1)]
        if ctx.partition:
            spread = torch.lerp(values[1], values[0], cells[0])
        else:
            spread = torch.addcmul(values[0] * cells[0], values[1], cells[1])
        return (spread.permute(0, 3, 1, 2) if ctx.channels_last else spread), None, None


def _sums(features: Tensor, regions: Tensor) -> Tensor:
    """Of a map whose channels come before its cells in memory."""
    if features.is_cuda:
        return _sums_of_products(features, regions)
    return torch.bmm(features.flatten(2), regions.mT)


def _sums_of_products(features: Tensor, regions: Tensor) -> Tensor:
    maps = regions.unflatten(2, features.shape[-2:]).unsqueeze(2)
    return torch.stack([(features * m).sum((2, 3)) for m in maps.unbind(1)], dim=-1)


def _sums_by_row(features: Tensor, regions: Tensor) -> Tensor:
    """Of a map whose channels come last in memory: of every row of cells first, so that there are
    as many small products as a GPU can have work for."""
    by_row = features.permute(0, 2, 3, 1).flatten(0, 1)
    of_rows = regions.unflatten(2, features.shape[-2:]).transpose(1, 2).flatten(0, 1)
    rows = torch.bmm(of_rows, by_row).unflatten(0, (len(features), features.shape[2]))
    sums: Tensor = rows.sum(1).mT
    return sums


def _max_pool(
    mask: Float[Tensor, "batch 1 height width"], size: torch.Size
) -> Float[Tensor, "batch 1 cells"]:
    if mask.shape[-2:] != size:
        mask = torch.nn.functional.adaptive_max_pool2d(mask, (size[0], size[1]))
    return mask.flatten(2)


def batch_prototypes(
    foreground: Float[Tensor, "batch *taps channels"],
    background: Float[Tensor, "batch *taps channels"],
    valid: Bool[Tensor, " batch *taps"],
    *,
    bound: Literal["none", "normalise", "cap"] = "none",
) -> tuple[Float[Tensor, "*taps channels"], Float[Tensor, "*taps channels"], Bool[Tensor, "*taps"]]:
    """The means of a batch's prototypes over its valid images, and whether there is one.

    This is what a site contributes to the cross-site term (Eq. 4). Without a valid image the
    means are zeros that are still connected to the graph, and the flag is False.

    Args:
        bound: `normalise` scales each image's prototypes to length 1 before the mean, as
            `feature_discrepancy_loss` with the same bound does. `cap` bounds distances, not
            prototypes, and changes nothing here.
    """
    if bound == "normalise":
        foreground, background = unit_vectors(foreground), unit_vectors(background)
    # where, not a product: an invalid row must not count even if it holds an infinity.
    rows = valid.unsqueeze(-1)
    count = valid.sum(0).clamp_min(1).unsqueeze(-1)
    return (
        foreground.where(rows, 0).sum(0) / count,
        background.where(rows, 0).sum(0) / count,
        valid.any(0),
    )


def unit_vectors(prototypes: Float[Tensor, "*rows channels"]) -> Float[Tensor, "*rows channels"]:
    """Each row over its length, √(|p|² + 1e-12): zeros stay zeros, with a finite derivative."""
    squared = prototypes.square().sum(-1, keepdim=True)
    return prototypes * (squared + _SQUARED_NORM_FLOOR).rsqrt()


def unit_vectors_backward(
    prototypes: Float[Tensor, "*rows channels"], cotangents: Float[Tensor, "*rows channels"]
) -> Float[Tensor, "*rows channels"]:
    """The derivative at `prototypes` p of a scalar whose derivative at u = `unit_vectors(p)` is g:

    (g - u <u, g>) / √(|p|² + 1e-12)
    """
    squared = prototypes.square().sum(-1, keepdim=True)
    scale = (squared + _SQUARED_NORM_FLOOR).rsqrt()
    units = prototypes * scale
    return scale * (cotangents - units * (units * cotangents).sum(-1, keepdim=True))

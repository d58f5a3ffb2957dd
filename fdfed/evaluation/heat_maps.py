"""Where a network is active: the mean over channels of two of its taps, for a site's own report."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Bool, Float
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from fdfed.evaluation.contours import outlines, svg_path
from fdfed.evaluation.figure_style import Picture
from fdfed.evaluation.whole_image import padded_to_fit
from fdfed.networks import SegmentationNetwork

COLOURS: Final = "viridis"
"""Even in lightness, and told apart with the common colour-vision deficiencies."""

HeatMap = Float[np.ndarray, "tap_height tap_width"]
Scale = tuple[float, float]
"""Values that have the first and the last colour."""


def shown_taps(network: SegmentationNetwork) -> tuple[str, ...]:
    """Bot and the last decoder, as the paper's Figure 5 shows them."""
    last = network.tap_names[-1]
    return tuple(name for name in network.tap_names if name in ("Bot", last))


@torch.no_grad()
def heat_maps(
    network: SegmentationNetwork, image: Float[Tensor, "channels height width"]
) -> dict[str, HeatMap]:
    """The mean over channels of each of `shown_taps`, in the tap's own resolution.

    Empty for an image that is larger than what the network is given at once: its windows have
    no common feature map.
    """
    network.eval()
    weight = next(network.parameters())
    padded = padded_to_fit(network, image[None].to(weight.device, weight.dtype))
    if padded is None:
        return {}
    _, taps = network.forward_with_taps(padded)
    found = {}
    for name in shown_taps(network):
        mean = taps[name][0].float().mean(0).cpu()
        # What the padding added is cut off again, to whole cells.
        rows, columns = (
            -(-own * cells // all_)
            for own, cells, all_ in zip(
                image.shape[-2:], mean.shape, padded.shape[-2:], strict=True
            )
        )
        found[name] = mean[:rows, :columns].numpy()
    return found


@dataclass(frozen=True, slots=True)
class HeatRow:
    """One case with its heat maps side by side."""

    title: str
    pictures: tuple[Picture, ...]


def common_scales(maps: Sequence[Mapping[str, HeatMap]]) -> dict[str, Scale]:
    """One scale for each tap over all `maps`, so that their colours can be compared."""
    names = dict.fromkeys(name for found in maps for name in found)
    return {
        name: (
            min(float(found[name].min()) for found in maps if name in found),
            max(float(found[name].max()) for found in maps if name in found),
        )
        for name in names
    }


def draw(
    name: str,
    heat: HeatMap,
    mask: Bool[np.ndarray, "height width"],
    *,
    scale: Scale,
    of: str,
) -> Picture:
    """`heat` of the tap `name` over the whole image, with the annotation's outline.

    Args:
        mask: the annotation, at the image's size.
        of: which image, in words.
    """
    height, width = mask.shape
    low, high = scale
    levels = np.clip((heat - low) / ((high - low) or 1.0), 0, 1)
    colours = (mpl.colormaps[COLOURS](levels)[..., :3] * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, format="PNG", optimize=True)
    inside, outside = (heat_mean(heat, region) for region in (mask, ~mask))
    alt = (
        f"Mean activation at {name} for {of}: {inside} within the annotation and {outside} outside."
    )
    svg = Markup(
        '<svg role="img" class="case heat" aria-label="{alt}" viewBox="0 0 {w} {h}">'
        '<image href="data:image/png;base64,{data}" width="{w}" height="{h}" '
        'preserveAspectRatio="none"/><path class="casing" d="{path}"/>'
        '<path class="annotation" d="{path}"/></svg>'
    ).format(
        alt=alt,
        w=width,
        h=height,
        data=base64.b64encode(buffer.getvalue()).decode("ascii"),
        path=svg_path(outlines(mask)),
    )
    return Picture(svg, f"{name}: {low:.2f} (dark) to {high:.2f} (bright)".replace("-", "−"), alt)


def heat_mean(heat: HeatMap, region: Bool[np.ndarray, "height width"]) -> str:
    """The mean of `heat` over the pixels of `region`, each with the value of its cell."""
    rows, columns = (
        np.minimum(np.arange(side) * cells // side, cells - 1)
        for side, cells in zip(region.shape, heat.shape, strict=True)
    )
    values = heat[np.ix_(rows, columns)][region]
    return f"{values.mean():.2f}" if values.size else "nothing"

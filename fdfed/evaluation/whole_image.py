"""Logits of an image of any size, by a network that takes some sizes only."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from monai.inferers.utils import sliding_window_inference
from torch import Tensor
from torch.nn import functional

from fdfed.networks import SegmentationNetwork

WINDOW: Final = 512
"""Largest side that a network without a fixed size is given at once, in pixels. Beyond it memory,
not the result, asks for windows."""

OVERLAP: Final = 0.25
"""Share of a window that its neighbour sees too; the two are blended with Gaussian weights."""


def whole_image_logits(
    network: SegmentationNetwork, image: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, "batch 1 height width"]:
    """The network's logits for every pixel, at the image's own resolution.

    An image that fits is passed through whole, padded below and to the right to a size that the
    network takes; the padding repeats the border and is cut off again. A larger one, and any other
    size than that of a network with a fixed size, goes through overlapping windows (MONAI's
    `sliding_window_inference`), whose logits are averaged.
    """
    shape = image.shape[-2:]
    window = _window(network, shape)
    padded = _padded(image, window)
    if padded.shape[-2:] == window:
        logits: Tensor = network(padded)
    else:
        found = sliding_window_inference(
            padded, window, sw_batch_size=1, predictor=network, overlap=OVERLAP, mode="gaussian"
        )
        logits = torch.as_tensor(found)
    return logits[..., : shape[0], : shape[1]]


def padded_to_fit(
    network: SegmentationNetwork, image: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, "batch channels padded_height padded_width"] | None:
    """`image` as the network is given it, if it is given it whole; None where it takes windows."""
    window = _window(network, image.shape[-2:])
    padded = _padded(image, window)
    return padded if padded.shape[-2:] == window else None


def _padded(
    image: Float[Tensor, "batch channels height width"], window: tuple[int, int]
) -> Float[Tensor, "batch channels padded_height padded_width"]:
    """At least as large as the window, by repeating the border below and to the right."""
    height, width = image.shape[-2:]
    more = (0, max(0, window[1] - width), 0, max(0, window[0] - height))
    return functional.pad(image, more, mode="replicate")


def _window(network: SegmentationNetwork, shape: torch.Size) -> tuple[int, int]:
    """(height, width) of what the network is given at once."""
    if network.fixed_size is not None:
        return network.fixed_size, network.fixed_size
    multiple = network.size_multiple
    largest = max(multiple, WINDOW // multiple * multiple)
    height, width = (min(largest, -(-side // multiple) * multiple) for side in shape)
    return height, width

"""A network's predictions for images, and their scores, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from fdfed.evaluation.aggregates import ImageScore
from fdfed.evaluation.metrics import image_scores
from fdfed.evaluation.whole_image import whole_image_logits
from fdfed.networks import SegmentationNetwork
from fdfed.training.precision import Precision, autocast

Batches = Iterable[tuple[Tensor, Tensor, tuple[str, ...]]]
"""Image (n, c, h, w), mask (n, 1, h, w) and names."""
Predictions = Iterable[tuple[Tensor, Tensor, Tensor, tuple[str, ...]]]
"""The same with the logits (n, 1, h, w) before the names."""


def predictions(
    network: SegmentationNetwork, batches: Batches, *, precision: Precision
) -> Iterator[tuple[Tensor, Tensor, Tensor, tuple[str, ...]]]:
    """Image, mask, logits and names, batch by batch, on the CPU; logits in fp32.

    The network is put into evaluation mode; it computes where its weights are.
    """
    network.eval()
    weight = next(network.parameters())
    for image, mask, names in batches:
        with torch.no_grad(), autocast(precision, weight.device):
            logits = whole_image_logits(network, image.to(weight.device, weight.dtype))
        yield image, mask, logits.float().cpu(), names


def scored(found: Predictions) -> tuple[ImageScore, ...]:
    """Dice and IoU of each image, as it is predicted."""
    scores: list[ImageScore] = []
    for _, mask, logits, names in found:
        scores += image_scores(logits, mask, names)
    return tuple(scores)


def scores_of(
    network: SegmentationNetwork, batches: Batches, *, precision: Precision
) -> tuple[ImageScore, ...]:
    """Dice and IoU of each image under `network`."""
    return scored(predictions(network, batches, precision=precision))

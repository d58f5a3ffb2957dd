"""What a site sees of its own test images: scores by image, pictures. None of it ever travels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fdfed.evaluation.case_pictures import CaseView
from fdfed.evaluation.metrics import ImageScore
from fdfed.evaluation.results import ImageRow

Predictions = Iterable[tuple[Tensor, Tensor, Tensor, tuple[str, ...]]]
"""Batches of image (n, c, h, w), mask and logits (n, 1, h, w), and names."""


def image_rows(site: str, scores: Sequence[ImageScore]) -> list[ImageRow]:
    """One row an image for `images.csv`."""
    return [
        ImageRow(
            site=site,
            name=score.name,
            dice=score.dice,
            iou=score.iou,
            foreground_pixels=score.foreground_pixels,
            empty=score.empty,
        )
        for score in scores
    ]


def case_views(site: str, predictions: Predictions, scores: Sequence[ImageScore]) -> list[CaseView]:
    """Every scored image with its pixels, for the site's own report."""
    dice = {score.name: score.dice for score in scores}
    return [
        CaseView(
            site=site,
            name=name,
            image=image[i].permute(1, 2, 0).numpy(),
            mask=mask[i, 0].bool().numpy(),
            probability=torch.sigmoid(logits[i, 0]).numpy(),
            dice=dice[name],
        )
        for image, mask, logits, names in predictions
        for i, name in enumerate(names)
    ]

"""What a site sees of its own test images: scores by image, pictures. None of it ever travels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fdfed.evaluation.aggregates import ImageScore
from fdfed.evaluation.results import ImageRow
from fdfed.evaluation.scoring import Predictions
from fdfed.networks import SegmentationNetwork

if TYPE_CHECKING:
    from fdfed.evaluation.case_pictures import CaseView


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


def case_views(
    site: str,
    predictions: Predictions,
    scores: Sequence[ImageScore],
    network: SegmentationNetwork,
) -> list[CaseView]:
    """The worst and the best scored images with their pixels and heat maps, for the site's own
    report; `network` made the predictions."""
    # Slow to import, and needed at the end of a run alone.
    from fdfed.evaluation.case_pictures import CaseView, shown  # noqa: PLC0415
    from fdfed.evaluation.heat_maps import heat_maps  # noqa: PLC0415

    dice = {score.name: score.dice for score in scores}
    wanted = shown(scores)
    return [
        CaseView(
            site=site,
            name=name,
            image=image[i].permute(1, 2, 0).numpy(),
            mask=mask[i, 0].bool().numpy(),
            probability=torch.sigmoid(logits[i, 0]).numpy(),
            dice=dice[name],
            heat=heat_maps(network, image[i]),
        )
        for image, mask, logits, names in predictions
        for i, name in enumerate(names)
        if name in wanted
    ]

"""Test images one by one, as a study keeps them: scores, patient, and L_fd at every tap."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fdfed.config import MethodPlan, RunPlan
from fdfed.data import SiteData
from fdfed.evaluation.metrics import foreground, image_scores
from fdfed.evaluation.whole_image import whole_image_logits
from fdfed.losses import feature_discrepancy_loss
from fdfed.networks import SegmentationNetwork
from fdfed.prototypes import masked_prototypes
from fdfed.training.precision import autocast


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredImage:
    """One test image under a site's final model. Dice and IoU are fractions; None: the annotation
    is empty and the image is excluded."""

    site: str
    image: str
    patient: str
    dice: float | None
    iou: float | None
    annotated_pixels: int = 0
    predicted_pixels: int = 0
    discrepancy: Mapping[str, float] = field(default_factory=dict)
    """L_fd (Eq. 1) by tap, literal, on mean prototypes; without the taps at which the image lacks
    one of the two. It needs the annotation, so it explains a score and predicts none."""


def score_test_images(
    plan: RunPlan,
    sites: Mapping[str, SiteData],
    network_of: Callable[[str], SegmentationNetwork],
) -> tuple[ScoredImage, ...]:
    """Every test image of every site, scored as the deployed site scores it."""
    return tuple(
        scored
        for name, images in sites.items()
        for scored in _of_site(plan, images, network_of(name))
    )


def diverged_test_images(sites: Mapping[str, SiteData]) -> tuple[ScoredImage, ...]:
    """Every test image with a score of zero: what a run that diverged is worth."""
    return tuple(
        ScoredImage(site=name, image=case.name, patient=case.patient, dice=0.0, iou=0.0)
        for name, images in sites.items()
        for case in images.cases("test")
    )


@torch.no_grad()
def _of_site(plan: RunPlan, site: SiteData, network: SegmentationNetwork) -> list[ScoredImage]:
    patients = {case.name: case.patient for case in site.cases("test")}
    device, found = next(network.parameters()).device, []
    network.eval()
    for image, mask, names in site.evaluation_batches("test"):
        image, mask = image.to(device), mask.to(device)  # noqa: PLW2901
        with autocast(plan.precision, device):
            logits = whole_image_logits(network, image)
        discrepancies = tap_discrepancies(network, image, mask, method=plan.method)
        scores = image_scores(logits.float(), mask, names)
        predicted = foreground(logits.float()).flatten(1).sum(1).tolist()
        found += [
            ScoredImage(
                site=site.name,
                image=score.name,
                patient=patients[score.name],
                dice=None if math.isnan(score.dice) else score.dice,
                iou=None if math.isnan(score.iou) else score.iou,
                annotated_pixels=score.foreground_pixels,
                predicted_pixels=int(count),
                discrepancy=discrepancy,
            )
            for score, count, discrepancy in zip(scores, predicted, discrepancies, strict=True)
        ]
    return found


@torch.no_grad()
def tap_discrepancies(
    network: SegmentationNetwork,
    image: Float[Tensor, "batch channels height width"],
    mask: Float[Tensor, "batch 1 height width"],
    *,
    method: MethodPlan,
) -> list[dict[str, float]]:
    """L_fd of every tap, one dictionary an image; empty for a network of one fixed size that the
    images do not have.

    The image is padded as it is for its score, and the mask with it.
    """
    height, width = image.shape[-2:]
    multiple = network.size_multiple
    if network.fixed_size is not None and (height, width) != (network.fixed_size,) * 2:
        return [{} for _ in range(len(image))]
    padding = (0, -width % multiple, 0, -height % multiple)
    padded = functional.pad(image, padding, mode="replicate")
    covered = functional.pad(mask, padding, mode="replicate")
    _, taps = network.forward_with_taps(padded)
    found: list[dict[str, float]] = [{} for _ in range(len(image))]
    for tap, features in taps.items():
        F, B, valid = masked_prototypes(
            features, covered, pooling=method.pooling, mask_pooling=method.mask_pooling
        )
        for row in torch.nonzero(valid).flatten().tolist():
            one = slice(row, row + 1)
            loss = feature_discrepancy_loss(F[one], B[one], valid[one], eps=method.eps)
            found[row][tap] = float(loss)
    return found


@torch.no_grad()
def spectral_norms(network: SegmentationNetwork) -> dict[str, float]:
    """The largest singular value of every layer's weights, as a matrix of their first dimension by
    all others: what `torch.nn.utils.spectral_norm` divides by. The operator of a convolution has
    another norm."""
    return {
        name: float(torch.linalg.matrix_norm(weight.flatten(1).double(), 2))
        for name, weight in network.named_parameters()
        if weight.ndim >= 2
    }

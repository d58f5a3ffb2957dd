"""Image reconstruction by optimisation, at the small size at which a frame has more numbers than
the picture has pixels."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fdfed.networks import SegmentationNetwork
from fdfed.studies.privacy.matching import Seen, match
from fdfed.studies.privacy.observed import gradient_of, released_prototypes
from fdfed.studies.privacy.reconstruction_jobs import blinded_frames, picture_rows
from fdfed.studies.privacy.rows import Row
from fdfed.studies.privacy.setting import Images, Population, Setting
from fdfed.training.initialise import initial_network


def matching_rows(setting: Setting, population: Population) -> list[Row]:
    """A picture is sought that would send what was seen of a single image, or of a batch with it;
    the attacker has the mask."""
    plan = setting.plan.model_copy(
        update={"width": setting.matching_width, "size": setting.matching_size}
    )
    network = initial_network(plan).eval()
    victims = shrunk(population.members, setting.matching_size)
    means = shrunk(population.others, setting.matching_size).site_means()
    usual = torch.stack([means[site] for site in victims.sites])
    count = setting.matched_images
    chosen = np.linspace(0, len(victims) - 2, count).astype(int).tolist()
    single, pairs = [[i] for i in chosen], [[i, i + 1] for i in chosen]
    plain, mean = (_frames(network, victims, batches) for batches in (single, pairs))
    blinded = torch.from_numpy(blinded_frames(network, plain.double().numpy())).float()
    gradients = [_gradient(network, victims, i) for i in chosen]
    views = {
        ("prototypes", "none"): [Seen(prototypes=frame[None]) for frame in plain],
        ("prototypes", "mean of 2 images"): [Seen(prototypes=frame[None]) for frame in mean],
        ("prototypes", "blinded, read as if plain"): [
            Seen(prototypes=frame[None]) for frame in blinded
        ],
        ("one SGD step", "none"): [Seen(gradient=gradient) for gradient in gradients],
        ("both", "none"): [
            Seen(gradient=gradient, prototypes=frame[None])
            for gradient, frame in zip(gradients, plain, strict=True)
        ],
    }
    rows = []
    for (attack, defence), seen in views.items():
        guesses = [
            match(network, mask[None], view, start=start[None], steps=setting.matching_steps)
            for mask, view, start in zip(victims.mask[chosen], seen, usual[chosen], strict=True)
        ]
        rows += picture_rows(
            torch.cat(guesses),
            victims.image[chosen],
            usual[chosen],
            attack=f"matching: {attack}",
            defence=defence,
            setting=f"{setting.matching_size} px",
        )
    return rows


def shrunk(images: Images, side: int) -> Images:
    """The images at another side: means of pixels; a mask's cell is foreground if any pixel is."""
    image = functional.adaptive_avg_pool2d(images.image, side)
    mask = functional.adaptive_max_pool2d(images.mask, side)
    return Images(image, mask, images.patients)


def _frames(
    network: SegmentationNetwork, images: Images, batches: list[list[int]]
) -> Float[Tensor, "n size"]:
    frames = released_prototypes(network, images, batches)
    return torch.from_numpy(np.ascontiguousarray(frames)).float()


def _gradient(network: SegmentationNetwork, images: Images, index: int) -> list[Tensor]:
    chosen = images.take([index])
    return [part.detach() for part in gradient_of(network, chosen.image, chosen.mask)]

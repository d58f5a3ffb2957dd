"""What an onlooker sees of a step or a round, computed as the system computes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from fdfed.losses import segmentation_loss
from fdfed.networks import SegmentationNetwork
from fdfed.prototypes import masked_prototypes
from fdfed.studies.privacy.setting import Images
from fdfed.studies.privacy.vectors import Array
from fdfed.training.step import layout_of


def prototypes_of(
    network: SegmentationNetwork, image: Float[Tensor, "n 1 h w"], mask: Float[Tensor, "n 1 h w"]
) -> tuple[Float[Tensor, "n size"], Bool[Tensor, "n taps"]]:
    """Every image's prototypes of all taps, packed as a frame packs them, and which are valid.
    Those that are not are zeros. Carries the gradient."""
    _, taps = network.forward_with_taps(image)
    halves: tuple[list[Tensor], list[Tensor]] = ([], [])
    valid = []
    for name in network.tap_names:
        foreground, background, known = masked_prototypes(taps[name], mask)
        for half, part in zip(halves, (foreground, background), strict=True):
            half.append(part.where(known.unsqueeze(-1), 0))
        valid.append(known)
    return torch.cat([*halves[0], *halves[1]], dim=1), torch.stack(valid, dim=1)


@torch.no_grad()
def released_prototypes(
    network: SegmentationNetwork, images: Images, batches: Sequence[Sequence[int]]
) -> Array:
    """The batch means that a site would send, (batches, size): over the valid images of each tap,
    zeros where there is none."""
    vectors, valid = prototypes_of(network, images.image, images.mask)
    entries = _by_entry(network, valid)
    rows = [
        vectors[list(batch)].sum(0) / entries[list(batch)].sum(0).clamp_min(1) for batch in batches
    ]
    return torch.stack(rows).double().numpy()


def _by_entry(
    network: SegmentationNetwork, valid: Bool[Tensor, "n taps"]
) -> Float[Tensor, "n size"]:
    channels = torch.tensor(layout_of(network).channels)
    return valid.repeat_interleave(channels, dim=1).repeat(1, 2).float()


def log_gaps(network: SegmentationNetwork, frames: Array) -> Array:
    """log(|F_l - B_l|² + 10⁻⁶) of every tap, (n, taps), of frames (n, size): what blinding leaves
    of one site's frame."""
    spans = layout_of(network).spans()
    gaps = [np.square(frames[:, fore] - frames[:, back]).sum(-1) for _, fore, back in spans]
    return np.log(np.stack(gaps, axis=1) + 1e-6)


def gradient_of(
    network: SegmentationNetwork, image: Float[Tensor, "n 1 h w"], mask: Float[Tensor, "n 1 h w"]
) -> list[Tensor]:
    """∇L_seg of one batch, one tensor a parameter; what one step of SGD sends, over its rate.
    Carries the gradient with respect to the image."""
    loss = segmentation_loss(network(image), mask)
    wanted = image.requires_grad
    return list(torch.autograd.grad(loss, list(network.parameters()), create_graph=wanted))


def flat(tensors: Sequence[Tensor]) -> NDArray[np.float32]:
    """All entries in one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).float().numpy()

"""How like two pictures are: PSNR, SSIM and gradient magnitude similarity."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from monai.metrics.regression import PSNRMetric, SSIMMetric
from torch import Tensor
from torch.nn import functional

_GMS_C: Final = 170 / 255**2
"""T of the publication, for grey levels in [0, 1] instead of [0, 255]."""


def psnr(guess: Float[Tensor, "n 1 h w"], truth: Float[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
    """10 log₁₀(1 / mean squared error) of each picture with levels in [0, 1], in dB, by MONAI."""
    return torch.as_tensor(PSNRMetric(max_val=1.0)(guess, truth)).flatten()


def ssim(guess: Float[Tensor, "n 1 h w"], truth: Float[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
    """Structural similarity (Wang et al. 2004) of each picture, window 11, by MONAI; 1: equal."""
    metric = SSIMMetric(spatial_dims=2, data_range=1.0)
    return torch.as_tensor(metric(guess, truth)).flatten()


def gradient_similarity(
    guess: Float[Tensor, "n 1 h w"], truth: Float[Tensor, "n 1 h w"]
) -> Float[Tensor, " n"]:
    """The mean gradient magnitude similarity of each picture; 1: equal edges.

        GMS = (2 m₁ m₂ + c) / (m₁² + m₂² + c),  m = |∇x| by Prewitt filters

    Source: Xue et al. 2014, arXiv:1308.3052, Eq. 1-4 with mean pooling (their GMSM). Departure:
    pictures are not halved first, since ours are small. It follows human judgement better than
    PSNR does; it stands in for a perceptual measure by a pretrained network, of which there is
    none here, and is none itself.
    """
    first, second = _gradient_magnitude(guess), _gradient_magnitude(truth)
    similar = (2 * first * second + _GMS_C) / (first.square() + second.square() + _GMS_C)
    return similar.flatten(1).mean(1)


def correlation(
    guess: Float[Tensor, "n 1 h w"], truth: Float[Tensor, "n 1 h w"]
) -> Float[Tensor, " n"]:
    """Pearson's correlation of each picture's pixels; 0 for a constant one.

    Normalisation layers take brightness and contrast away, so an attacker cannot find them, and a
    picture that is right but for these two is a success that the other measures do not show.
    """
    first = guess.flatten(1) - guess.flatten(1).mean(1, keepdim=True)
    second = truth.flatten(1) - truth.flatten(1).mean(1, keepdim=True)
    lengths: Tensor = torch.linalg.vector_norm(first, dim=1) * torch.linalg.vector_norm(
        second, dim=1
    )
    product: Tensor = (first * second).sum(1)
    return product / lengths.clamp_min(1e-12)


def _gradient_magnitude(picture: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    filters = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=picture.dtype) / 3
    both = torch.stack((filters, filters.T)).unsqueeze(1)
    padded = functional.pad(picture, (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(padded, both).square().sum(1, keepdim=True).sqrt()

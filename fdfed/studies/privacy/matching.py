"""Image reconstruction by optimisation: a picture that would send what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fdfed.networks import SegmentationNetwork
from fdfed.studies.privacy.observed import gradient_of, prototypes_of


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What was seen of one image: its gradient, its prototypes, or both."""

    gradient: Sequence[Tensor] | None = None
    prototypes: Float[Tensor, "1 size"] | None = None


def match(
    network: SegmentationNetwork,
    mask: Float[Tensor, "1 1 h w"],
    seen: Seen,
    *,
    start: Float[Tensor, "1 1 h w"],
    steps: int,
    rate: float = 0.01,
    smoothness: float = 1e-4,
) -> Float[Tensor, "1 1 h w"]:
    """The picture x, from `start`, that minimises

        1 - cos(∇L(x), ∇L seen) + |p(x) - p|² / |p|² + smoothness · TV(x),   x in [0, 1]

    with the terms of what was seen, by Adam with a cosine rate. Source of the first term and of
    TV: Geiping et al. 2020, arXiv:2003.14053, Eq. 4. Departures: no sign of the gradient; the
    second term is ours. The attacker is given the mask, which favours him.

    Args:
        network: with the weights at which the gradient was taken.
        start: the attacker's guess without access.
        steps: of the optimiser.
    """
    guess = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([guess], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = smoothness * _total_variation(guess)
        if seen.gradient is not None:
            loss = loss + 1 - cosine(gradient_of(network, guess, mask), seen.gradient)
        if seen.prototypes is not None:
            away = prototypes_of(network, guess, mask)[0] - seen.prototypes
            loss = loss + away.square().sum() / seen.prototypes.square().sum()
        (guess.grad,) = torch.autograd.grad(loss, [guess])
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            guess.clamp_(0, 1)
    return guess.detach()


def cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> Float[Tensor, ""]:
    """The cosine of two gradients, all parameters as one vector."""
    product = sum(((a * b).sum() for a, b in zip(first, second, strict=True)), torch.tensor(0.0))
    lengths = [
        sum((a.square().sum() for a in part), torch.tensor(0.0)).sqrt() for part in (first, second)
    ]
    return product / (lengths[0] * lengths[1]).clamp_min(1e-12)


def _total_variation(picture: Float[Tensor, "1 1 h w"]) -> Float[Tensor, ""]:
    across = (picture[..., 1:] - picture[..., :-1]).abs().mean()
    return across + (picture[..., 1:, :] - picture[..., :-1, :]).abs().mean()

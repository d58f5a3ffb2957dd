"""One round of local training with differential privacy: DP-SGD, or plain steps whose only private
release is the prototypes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fdfed.config import PrototypesPrivacy, RunPlan, WeightsPrivacy
from fdfed.data.units import TrainingUnits
from fdfed.networks import SegmentationNetwork
from fdfed.privacy.prototype_release import joint_vectors, noisy_mean
from fdfed.privacy.randomness import Randomness
from fdfed.training.local_round import (
    dump_optimizer,
    load_optimizer_,
    make_optimizer,
    set_learning_rate_,
)
from fdfed.training.per_image import FixedTerm, image_losses
from fdfed.training.per_unit_gradients import (
    SecureDPOptimizer,
    gather_by_unit_,
    per_image_gradients,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrivateRound:
    """Which round is trained, and with what from outside."""

    plan: RunPlan
    server_round: int
    alpha: NDArray[np.float64] | None
    """α by tap; None in phase 1."""
    term: FixedTerm | None
    """The cross-site term; None where there is none, or none yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateOutcome:
    """What a round leaves behind, beside the network. No mean of a loss: that would be a release
    without noise."""

    optimizer_state: dict[str, Tensor]
    seconds: float


def sample_rate(plan: RunPlan, units: int) -> float:
    """q: each unit enters a step with probability batch_size / units, at most 1."""
    return min(1.0, plan.batch_size / units)


def train_private_round_(
    network: SegmentationNetwork,
    units: TrainingUnits,
    request: PrivateRound,
    *,
    randomness: Randomness,
    optimizer_state: dict[str, Tensor] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> PrivateOutcome:
    """Trains `network` in place for the plan's `steps_per_round` steps.

    With [run.privacy.weights] each step is DP-SGD (Abadi et al. 2016, Algorithm 1): units enter by
    Poisson sampling, the gradient of each is clipped to norm C, and their sum is noised and divided
    by the number expected. Weight decay and the moments of AdamW work on the noisy gradient. A
    step that nobody enters is noise alone.

    Args:
        randomness: of sampling and noise; the system's in production.
        optimizer_state: from the round before; None starts afresh.
        on_step: told the number of steps done, after each.
    """
    began = time.perf_counter()
    optimizer = make_optimizer(network, request.plan)
    if optimizer_state:
        load_optimizer_(optimizer, optimizer_state)
    set_learning_rate_(optimizer, request.plan, request.server_round)
    network.train()
    privacy = None if request.plan.privacy is None else request.plan.privacy.weights
    if isinstance(privacy, WeightsPrivacy):
        steps = _private_steps(
            network, units, request, optimizer, randomness=randomness, privacy=privacy
        )
    else:
        steps = _plain_steps(network, units, request, optimizer)
    for done in steps:
        if on_step is not None:
            on_step(done)
    return PrivateOutcome(
        optimizer_state=dump_optimizer(optimizer), seconds=time.perf_counter() - began
    )


@torch.no_grad()
def release_prototypes(
    network: SegmentationNetwork,
    units: TrainingUnits,
    plan: RunPlan,
    privacy: PrototypesPrivacy,
    *,
    projection: dict[str, Tensor],
    randomness: Randomness,
) -> NDArray[np.float64]:
    """The noisy mean of all units' joint vectors under the network's weights: `(size,)`.

    The weights must be ones that the coordinator has, or that were released under the same ledger:
    else they depend on every unit, and no bound on one unit's vector holds.
    """
    network.eval()
    device, rng, vectors = next(network.parameters()).device, randomness.generator(), []
    everybody = range(len(units))
    for members, images in units.batches(everybody, rng, images=plan.batch_size, most=None):
        owner = units.owners(members, images)
        rows = [
            joint_vectors(network.forward_with_taps(image)[1], mask, projection, plan.method)
            for image, mask in _loaded(units, images, rng, plan, device)
        ]
        joined = torch.cat(rows).double()
        vectors.append(torch.stack([joined[owner == k].mean(0) for k in range(len(members))]))
    return noisy_mean(
        torch.cat(vectors),
        max_norm=privacy.max_norm,
        noise_multiplier=privacy.noise_multiplier,
        count=len(units),
        randomness=randomness,
    )


def _loaded(
    units: TrainingUnits,
    images: list[int],
    rng: np.random.Generator,
    plan: RunPlan,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pictures and masks, not turned, at most a batch at a time."""
    for start in range(0, len(images), plan.batch_size):
        chosen = images[start : start + plan.batch_size]
        image, mask = units.load(chosen, rng, augment=False)
        yield image.to(device, _dtype(plan)), mask.to(device, _dtype(plan))


def _private_steps(
    network: SegmentationNetwork,
    units: TrainingUnits,
    request: PrivateRound,
    optimizer: torch.optim.Optimizer,
    *,
    randomness: Randomness,
    privacy: WeightsPrivacy,
) -> Iterator[int]:
    rate = sample_rate(request.plan, len(units))
    private = SecureDPOptimizer(
        optimizer,
        noise_multiplier=privacy.noise_multiplier,
        max_grad_norm=privacy.max_grad_norm,
        expected_units=rate * len(units),
        randomness=randomness,
    )
    with per_image_gradients(network):
        for step in range(request.plan.steps_per_round):
            drawn = randomness.poisson_sample(len(units), rate=rate).tolist()
            rng = randomness.generator()
            _private_step_(network, units, drawn, request, optimizer=private, rng=rng)
            yield step + 1


def _private_step_(
    network: SegmentationNetwork,
    units: TrainingUnits,
    drawn: list[int],
    request: PrivateRound,
    *,
    optimizer: SecureDPOptimizer,
    rng: np.random.Generator,
) -> None:
    """One step on the units drawn, a batch that fits into memory at a time."""
    plan = request.plan
    most = None if plan.privacy is None else plan.privacy.images_per_unit
    batches = units.batches(drawn, rng, images=plan.batch_size, most=most)
    # Whether a step is empty must not show in what it does: noise is added all the same.
    for number, (members, images) in enumerate(batches or [([], [])]):
        optimizer.zero_grad(set_to_none=True)
        if images:
            _backward(network, units, images, request, rng)
        gather_by_unit_(network, units.owners(members, images), len(members))
        optimizer.signal_skip_step(number + 1 < len(batches))
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _backward(
    network: SegmentationNetwork,
    units: TrainingUnits,
    images: list[int],
    request: PrivateRound,
    rng: np.random.Generator,
) -> None:
    """Leaves the gradient of each image's own loss at the weights."""
    plan, device = request.plan, next(network.parameters()).device
    image, mask = units.load(images, rng, augment=plan.augment)
    # The hooks of Opacus on the first layer fire for sure only if its input asks for a gradient.
    image = image.to(device, _dtype(plan)).requires_grad_()
    losses = image_losses(
        network,
        image,
        mask.to(device, _dtype(plan)),
        plan=plan,
        alpha=request.alpha,
        term=request.term,
    )
    losses.sum().backward()


def _plain_steps(
    network: SegmentationNetwork,
    units: TrainingUnits,
    request: PrivateRound,
    optimizer: torch.optim.Optimizer,
) -> Iterator[int]:
    """Steps without noise, on the seeded batches of every other run."""
    plan, device = request.plan, next(network.parameters()).device
    first = (request.server_round - 1) * plan.steps_per_round
    for step in range(plan.steps_per_round):
        image, mask = (t.to(device, _dtype(plan)) for t in units.data.training_batch(first + step))
        optimizer.zero_grad(set_to_none=True)
        losses = image_losses(
            network, image, mask, plan=plan, alpha=request.alpha, term=request.term
        )
        losses.mean().backward()
        optimizer.step()
        yield step + 1


def _dtype(plan: RunPlan) -> torch.dtype:
    return torch.float64 if plan.precision == "fp64" else torch.float32

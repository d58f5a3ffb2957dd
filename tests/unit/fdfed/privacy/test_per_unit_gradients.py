"""DP-SGD's inner part: a gradient for each unit, clipped, summed and noised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed.networks import create_network
from fdfed.privacy.projection import projections
from fdfed.training.initialise import initial_network
from fdfed.training.per_image import FixedTerm, image_losses
from fdfed.training.per_unit_gradients import (
    SecureDPOptimizer,
    check_hookable,
    gather_by_unit_,
    per_image_gradients,
)
from fdfed.training.step import layout_of
from tests.plans import PHASED

PRIVACY = {
    "epsilon": 8.0,
    "delta": "derived",
    "unit": "image",
    "weights": {"noise_multiplier": 1.0, "max_grad_norm": 0.5},
    "prototypes": {"noise_multiplier": 4.0, "max_norm": 2.0, "dimensions": 8},
}


def plan_of(**changes: object) -> RunPlan:
    values: dict[str, object] = {
        "sites": ["a", "b"],
        "width": 4,
        "in_channels": 1,
        "size": 32,
        "norm": "group",
        "precision": "fp64",
        "alpha": {"mode": "fixed", "value": 0.02},
        "privacy": PRIVACY,
    }
    return RunPlan.model_validate(PHASED | values | changes)


def batch_of(images: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    mask = torch.zeros(images, 1, 32, 32, dtype=torch.float64)
    for i in range(images):
        mask[i, :, 3 + i : 14 + i, 8:22] = 1
    noise = torch.rand(images, 1, 32, 32, generator=rng, dtype=torch.float64)
    return 0.3 * noise + 0.5 * mask, mask


def term_of(plan: RunPlan, network: Any) -> FixedTerm:
    full = layout_of(network)
    layout = full.narrowed(8)
    cotangents = np.random.default_rng(5).standard_normal(layout.size)
    return FixedTerm(
        projection=projections(full, dimensions=8, seed=0),
        layout=layout,
        cotangents=cotangents,
        scale=2.5,
        max_norm=2.0,
    )


def gradients_by_image(network: Any, losses_of: Callable[[slice], Tensor], n: int) -> list[Tensor]:
    """One flat gradient an image, from a pass of its own through autograd."""
    parameters = list(network.parameters())
    return [
        torch.cat(
            [g.flatten() for g in torch.autograd.grad(losses_of(slice(i, i + 1)).sum(), parameters)]
        )
        for i in range(n)
    ]


def flat_samples(network: Any) -> Tensor:
    return torch.cat([p.grad_sample.flatten(1) for p in network.parameters()], dim=1)


@pytest.mark.parametrize("name", ["unet", "attention-unet", "nucleisegnet", "cmunet"])
def test_the_gradient_of_each_image_is_the_one_that_it_has_alone(name: str) -> None:
    plan = plan_of(network=name)
    network = initial_network(plan).train()
    image, mask = batch_of(3)
    mask[1] = 0  # without a foreground: no feature terms
    alpha, term = np.full(len(network.tap_names), 0.02), term_of(plan, network)

    def losses_of(rows: slice) -> Tensor:
        return image_losses(network, image[rows], mask[rows], plan=plan, alpha=alpha, term=term)

    alone = gradients_by_image(network, losses_of, 3)
    image.requires_grad_()
    with per_image_gradients(network):
        losses_of(slice(None)).sum().backward()
        found = flat_samples(network)
    torch.testing.assert_close(found, torch.stack(alone), rtol=1e-8, atol=1e-11)


def test_the_sum_over_images_holds_every_term_of_the_batch_loss() -> None:
    # With one image a batch and the image are the same: L_seg, L_fd and the surrogate term.
    plan = plan_of()
    network = initial_network(plan)
    image, mask = batch_of(1)
    alpha = np.full(9, 0.02)
    without = image_losses(network, image, mask, plan=plan, alpha=alpha, term=None)
    term = term_of(plan, network)
    with_term = image_losses(network, image, mask, plan=plan, alpha=alpha, term=term)
    from fdfed.privacy.prototype_release import clipped, joint_vectors
    from fdfed.training.step import step_losses

    batch = step_losses(network, image, mask, plan=plan, alpha=alpha, remote=None)
    torch.testing.assert_close(without.sum(), batch.objective)
    _, taps = network.forward_with_taps(image)
    v = clipped(joint_vectors(taps, mask, term.projection, plan.method), max_norm=2.0)
    expected = 2.5 * 0.02 * (v @ torch.from_numpy(term.cotangents)).sum()
    torch.testing.assert_close((with_term - without).sum(), expected)


def test_in_phase_1_the_loss_is_that_of_the_segmentation_alone() -> None:
    plan = plan_of()
    network = initial_network(plan)
    image, mask = batch_of(2)
    from fdfed.losses import segmentation_loss

    found = image_losses(network, image, mask, plan=plan, alpha=None, term=None)
    logits = network(image)
    expected = [segmentation_loss(logits[i : i + 1], mask[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(found, torch.stack(expected))


def stepped(
    plan: RunPlan, owner: list[int], units: int, randomness: Any, *, max_grad_norm: float = 0.5
) -> tuple[Tensor, Tensor]:
    """(change of the weights by one step of SGD at rate 1, per-unit gradients before clipping)."""
    network = initial_network(plan).train()
    before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
    optimizer = SecureDPOptimizer(
        torch.optim.SGD(network.parameters(), lr=1.0),
        noise_multiplier=2.0,
        max_grad_norm=max_grad_norm,
        expected_units=4.0,
        randomness=randomness,
    )
    with per_image_gradients(network):
        optimizer.zero_grad(set_to_none=True)
        if owner:
            image, mask = batch_of(len(owner))
            losses = image_losses(
                network, image.requires_grad_(), mask, plan=plan, alpha=None, term=None
            )
            losses.sum().backward()
        gather_by_unit_(network, torch.tensor(owner, dtype=torch.int64), units)
        gradients = flat_samples(network)
        optimizer.step()
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    return after - before, gradients


def test_a_step_is_the_noisy_sum_of_clipped_gradients_over_the_number_expected(
    seeded: Callable[..., Any],
) -> None:
    moved, gradients = stepped(plan_of(), [0, 1, 2], 3, seeded(noise=0.0))
    norms = gradients.norm(dim=1, keepdim=True)
    assert (norms > 0.5).any()
    total = (gradients * (0.5 / norms).clamp(max=1)).sum(0)
    torch.testing.assert_close(moved, -total / 4, rtol=1e-5, atol=1e-9)
    noisy, _ = stepped(plan_of(), [0, 1, 2], 3, seeded(3))
    noise = 4 * (moved - noisy)
    # σC = 1, over some 12,000 weights.
    assert float(noise.std()) == pytest.approx(1.0, abs=5 / np.sqrt(2 * noise.numel()))


def test_a_patients_gradient_is_the_mean_over_its_images(seeded: Callable[..., Any]) -> None:
    _, by_image = stepped(plan_of(), [0, 1, 2], 3, seeded(noise=0.0))
    _, by_patient = stepped(plan_of(), [0, 1, 0], 2, seeded(noise=0.0))
    expected = torch.stack([(by_image[0] + by_image[2]) / 2, by_image[1]])
    torch.testing.assert_close(by_patient, expected)


def test_one_unit_moves_the_step_by_at_most_the_clipping_norm(seeded: Callable[..., Any]) -> None:
    three, _ = stepped(plan_of(), [0, 1, 2], 3, seeded(noise=0.0))
    two, _ = stepped(plan_of(), [0, 1], 2, seeded(noise=0.0))
    assert 0 < float(4 * (three - two).norm()) <= 0.5 * (1 + 1e-9)


def test_a_step_that_nobody_entered_is_noise_alone(seeded: Callable[..., Any]) -> None:
    moved, gradients = stepped(plan_of(), [], 0, seeded(2))
    assert gradients.shape[0] == 0
    assert float((4 * moved).std()) == pytest.approx(1.0, abs=5 / np.sqrt(2 * moved.numel()))


def test_a_unit_whose_gradient_is_not_finite_counts_as_zeros() -> None:
    network = initial_network(plan_of())
    for p in network.parameters():
        p.grad_sample = torch.ones(2, *p.shape, dtype=p.dtype)  # type: ignore[attr-defined]
    next(network.parameters()).grad_sample[0].view(-1)[0] = torch.inf  # type: ignore[attr-defined]
    gather_by_unit_(network, torch.tensor([0, 1]), 2)
    found = flat_samples(network)
    assert not found[0].any()
    assert (found[1] == 1).all()


def test_the_network_is_left_as_it_was_found() -> None:
    network = initial_network(plan_of()).train()
    names = set(vars(network))
    with per_image_gradients(network):
        image, _ = batch_of(1)
        network(image.requires_grad_()).sum().backward()
    assert set(vars(network)) == names
    assert all(not hasattr(p, "grad_sample") and p.grad is None for p in network.parameters())
    network(batch_of(1)[0]).sum().backward()
    assert not hasattr(next(network.parameters()), "grad_sample")


@pytest.mark.parametrize(
    ("name", "size", "width", "said"),
    [("transunet", 64, 16, "position"), ("swin-unet", 224, 12, "position_bias")],
)
def test_a_network_with_weights_that_are_no_layers_is_refused_by_name(
    name: str, size: int, width: int, said: str
) -> None:
    network = create_network(name, in_channels=1, width=width, norm="group", size=size)
    with pytest.raises(InvalidInput, match=f"{said}.*Use unet"):
        check_hookable(network)


def test_batch_normalisation_is_refused() -> None:
    with pytest.raises(InvalidInput, match="buffers"):
        check_hookable(create_network("unet", in_channels=1, width=4))

"""Rounds with an auxiliary loss: its heads are trained, repeat bit for bit, and never travel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed.losses import AuxiliaryLoss, segmentation_loss
from fdfed.networks import SegmentationNetwork
from fdfed.training.initialise import initial_auxiliary, initial_network
from fdfed.training.local_round import LocalRound, train_round_
from fdfed.training.step import AuxiliaryTerm, step_losses

PlanOf = Callable[..., RunPlan]
pytestmark = pytest.mark.parametrize("name", ["con", "deeps"])


def request_of(plan: RunPlan, server_round: int = 1) -> LocalRound:
    return LocalRound(plan=plan, run_id="0" * 16, server_round=server_round, attempt=1, alpha=None)


def made(plan: RunPlan) -> tuple[SegmentationNetwork, AuxiliaryLoss]:
    network = initial_network(plan)
    auxiliary = initial_auxiliary(plan, network)
    assert auxiliary is not None
    return network, auxiliary


def bits(module: torch.nn.Module) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in module.state_dict().items()}


def test_the_heads_depend_on_the_plan_alone_and_no_global_state_moves(
    plan_of: PlanOf, name: str
) -> None:
    before = torch.random.get_rng_state()
    first, second = made(plan_of(loss=name))[1], made(plan_of(loss=name))[1]
    assert bits(first) == bits(second)
    assert bits(first) != bits(made(plan_of(loss=name, seed=1))[1])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_objective_is_the_segmentation_loss_plus_the_auxiliary_one(
    plan_of: PlanOf, images: Any, name: str
) -> None:
    plan = plan_of(loss=name, precision="fp64", norm="group")
    network, auxiliary = made(plan)
    image, mask = images(torch.float64).training_batch(0)

    def objective(term: AuxiliaryTerm | None) -> Tensor:
        return step_losses(
            network.train(), image, mask, plan=plan, alpha=None, remote=None, auxiliary=term
        ).objective

    # A moment is used once: its generator moves on.
    got = objective(AuxiliaryTerm(auxiliary, request_of(plan).moment(0)))
    logits, taps = network.forward_with_taps(image)
    extra = auxiliary(taps, mask, request_of(plan).moment(0))
    torch.testing.assert_close(got, segmentation_loss(logits, mask) + extra)
    assert extra.item() > 0

    def gradients(value: Tensor) -> list[Tensor | None]:
        return list(torch.autograd.grad(value, list(network.parameters()), allow_unused=True))

    changed = [
        not torch.equal(a, b)
        for a, b in zip(gradients(got), gradients(objective(None)), strict=True)
        if a is not None and b is not None
    ]
    assert any(changed)


def test_a_round_trains_network_and_heads_and_repeats_bit_for_bit(
    plan_of: PlanOf, images: Any, name: str
) -> None:
    plan = plan_of(loss=name)
    network, auxiliary = made(plan)
    initial = bits(auxiliary)
    first = train_round_(network, images(), request_of(plan), auxiliary=auxiliary)
    assert bits(auxiliary) != initial
    assert bits(network) != bits(initial_network(plan))
    after_one = bits(network), bits(auxiliary)

    again, heads = made(plan)
    second = train_round_(again, images(), request_of(plan), auxiliary=heads)
    assert (bits(again), bits(heads)) == after_one

    for net, aux, state in (
        (network, auxiliary, first.optimizer_state),
        (again, heads, second.optimizer_state),
    ):
        train_round_(net, images(), request_of(plan, 2), auxiliary=aux, optimizer_state=state)
    assert (bits(again), bits(heads)) == (bits(network), bits(auxiliary))


def test_a_plan_with_it_has_one_phase_and_a_plan_without_the_heads_is_refused(
    plan_of: PlanOf, images: Any, name: str
) -> None:
    plan = plan_of(loss=name)
    assert plan.phase_1_rounds == plan.rounds
    assert plan.phase(plan.rounds) == 1
    with pytest.raises(InvalidInput, match=f"loss = {name} was given no auxiliary loss"):
        train_round_(initial_network(plan), images(), request_of(plan))
    other = plan_of(loss="seg")
    with pytest.raises(InvalidInput, match="loss = seg was given an auxiliary loss"):
        train_round_(initial_network(other), images(), request_of(other), auxiliary=made(plan)[1])


def test_the_generator_of_a_step_is_its_own(plan_of: PlanOf, name: str) -> None:
    request = request_of(plan_of(loss=name, seed=3), 2)
    draws = [
        int(torch.randint(2**31, (), generator=request.moment(step).generator))
        for step in (0, 1, 0)
    ]
    assert draws[0] == draws[2] != draws[1]
    assert (request.moment(1).step, request.moment(1).steps) == (3, 8)

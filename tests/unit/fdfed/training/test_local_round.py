"""A round of local training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fdfed.config import RunPlan
from fdfed.losses import segmentation_loss
from fdfed.networks.base import SegmentationNetwork, Tap, TapSink
from fdfed.training.initialise import initial_network
from fdfed.training.local_round import (
    ExchangeIncomplete,
    LocalRound,
    RoundOutcome,
    dump_optimizer,
    load_optimizer_,
    make_optimizer,
    tap_losses,
    train_round_,
)

PlanOf = Callable[..., RunPlan]


def request_of(plan: RunPlan, server_round: int = 1, **changes: Any) -> LocalRound:
    values: dict[str, Any] = {
        "plan": plan,
        "run_id": "0" * 16,
        "server_round": server_round,
        "attempt": 1,
        "alpha": None,
    }
    return LocalRound(**(values | changes))


def trained(
    plan: RunPlan, data: Any, *, rounds: int = 1, **changes: Any
) -> tuple[SegmentationNetwork, RoundOutcome]:
    network, state = initial_network(plan), None
    for server_round in range(1, rounds + 1):
        request = request_of(plan, server_round, **changes)
        outcome = train_round_(network, data, request, optimizer_state=state)
        state = outcome.optimizer_state
    return network, outcome


def bits(tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


class OneWeight(SegmentationNetwork):
    """One weight that multiplies the image."""

    paper_width = 1

    def __init__(self, weight: float) -> None:
        super().__init__(
            in_channels=1, norm="group", taps={"Enc1": Tap(1, 1)}, size_multiple=1, size=None
        )
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
        taps["Enc1"] = image
        return self.weight * image


class Black:
    """Black images: whatever the weight, L_seg does not depend on it."""

    def training_batch(self, global_step: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)

    def training_patients(self, global_step: int) -> tuple[str, ...]:
        return ("one",)


@pytest.mark.parametrize(("strategy", "expected"), [("fedprox", 0.83), ("fedavg", 0.81)])
def test_the_proximal_gradient_is_that_worked_by_hand(
    plan_of: PlanOf, strategy: str, expected: float
) -> None:
    # SGD, η = 0.5, weight decay λ = 0.2, μ = 0.4, w₀ = 1, and L_seg has no gradient.
    # Step 1: w = w₀, so the proximal gradient is 0:  w₁ = 1 - 0.5 · 0.2 · 1 = 0.9
    # Step 2: μ (w₁ - w₀) + λ w₁ = -0.04 + 0.18 = 0.14:  w₂ = 0.9 - 0.07 = 0.83
    # (without the proximal term 0.18: w₂ = 0.81)
    plan = plan_of(
        strategy=strategy,
        proximal_mu=0.4,
        optimizer="sgd",
        learning_rate=0.5,
        weight_decay=0.2,
        precision="fp64",
    )
    network = OneWeight(1.0)
    train_round_(network, Black(), request_of(plan))
    assert network.weight.item() == pytest.approx(expected, abs=1e-12)


def test_the_proximal_gradient_is_autograds_of_the_added_term(plan_of: PlanOf, images: Any) -> None:
    mu, rate = 0.7, 0.05
    plan = plan_of(
        strategy="fedprox",
        proximal_mu=mu,
        optimizer="sgd",
        learning_rate=rate,
        weight_decay=0,
        precision="fp64",
        steps_per_round=3,
    )
    data = images(torch.float64)
    network, _ = trained(plan, data)
    oracle = initial_network(plan).train()
    start = [p.detach().clone() for p in oracle.parameters()]
    for step in range(3):
        image, mask = data.training_batch(step)
        far = sum((p - s).square().sum() for p, s in zip(oracle.parameters(), start, strict=True))
        gradients = torch.autograd.grad(
            segmentation_loss(oracle(image), mask) + mu / 2 * far,
            list(oracle.parameters()),
            allow_unused=True,
        )
        with torch.no_grad():
            for p, g in zip(oracle.parameters(), gradients, strict=True):
                if g is not None:
                    p.sub_(g, alpha=rate)
    for got, expected in zip(network.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_a_falling_learning_rate_is_that_of_the_round(plan_of: PlanOf) -> None:
    # SGD without momentum, weight decay λ = 0.2, no other gradient: w <- w (1 - η_r λ). Of two
    # rounds of one step the first has η = 0.5, the second 0.5 · 0.5^0.9 = 0.267943:
    # 1 · (1 - 0.1) · (1 - 0.0535887) = 0.851770
    plan = plan_of(
        strategy="fedavg",
        optimizer="sgd",
        learning_rate=0.5,
        learning_rate_schedule="poly",
        weight_decay=0.2,
        precision="fp64",
        rounds=2,
        steps_per_round=1,
    )
    network = OneWeight(1.0)
    first = train_round_(network, Black(), request_of(plan))
    assert network.weight.item() == pytest.approx(0.9, abs=1e-12)
    train_round_(network, Black(), request_of(plan, 2), optimizer_state=first.optimizer_state)
    assert network.weight.item() == pytest.approx(0.851770, abs=1e-6)


@pytest.mark.parametrize("loss", ["fd", "fd+exch"])
def test_a_round_of_phase_1_is_one_of_the_segmentation_loss_alone_bit_for_bit(
    plan_of: PlanOf, images: Any, loss: str
) -> None:
    network, outcome = trained(plan_of(loss=loss), images())
    plain, of_plain = trained(plan_of(strategy="fedavg", loss="seg"), images())
    assert bits(network.state_dict()) == bits(plain.state_dict())
    assert bits(outcome.optimizer_state) == bits(of_plain.optimizer_state)
    assert outcome.means.loss_seg() == of_plain.means.loss_seg()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_two_rounds_that_hand_the_optimiser_on_are_one_round_of_twice_the_steps(
    plan_of: PlanOf, images: Any, optimizer: str
) -> None:
    plan = plan_of(optimizer=optimizer)
    network, outcome = trained(plan, images(), rounds=2)
    long, of_long = trained(plan_of(optimizer=optimizer, steps_per_round=4), images())
    assert bits(network.state_dict()) == bits(long.state_dict())
    assert bits(outcome.optimizer_state) == bits(of_long.optimizer_state)


def test_forgetting_the_optimiser_between_rounds_gives_other_weights(
    plan_of: PlanOf, images: Any
) -> None:
    plan = plan_of()
    kept, _ = trained(plan, images(), rounds=2)
    network = initial_network(plan)
    for server_round in (1, 2):
        train_round_(network, images(), request_of(plan, server_round))
    assert bits(network.state_dict()) != bits(kept.state_dict())


def test_a_round_leaves_the_state_it_was_handed_as_it_was(plan_of: PlanOf, images: Any) -> None:
    plan = plan_of()
    first, outcome = trained(plan, images())
    weights = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    before = bits(outcome.optimizer_state)
    results = []
    for _ in range(2):
        first.load_state_dict(weights)
        train_round_(first, images(), request_of(plan, 2), optimizer_state=outcome.optimizer_state)
        results.append(bits(first.state_dict()))
    assert bits(outcome.optimizer_state) == before
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_optimiser_holds_the_networks_weights_alone(
    plan_of: PlanOf, images: Any, name: str
) -> None:
    """α is none of them, so that neither weight decay nor a gradient moves it within a round."""
    plan = plan_of(optimizer=name, weight_decay=0.5, loss="fd")
    network = initial_network(plan)
    optimizer = make_optimizer(network, plan)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in network.parameters()]
    alpha = np.full(9, 0.25)
    train_round_(network, images(), request_of(plan, alpha=alpha))
    assert alpha.tolist() == [0.25] * 9


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_an_optimiser_comes_back_as_it_was_dumped(plan_of: PlanOf, images: Any, name: str) -> None:
    plan = plan_of(optimizer=name)
    _, outcome = trained(plan, images())
    optimizer = make_optimizer(initial_network(plan), plan)
    load_optimizer_(optimizer, outcome.optimizer_state)
    assert bits(dump_optimizer(optimizer)) == bits(outcome.optimizer_state)
    # AdamW has the step and two moments for each parameter; SGD without momentum has nothing.
    entries = {key.split(".", 1)[1] for key in outcome.optimizer_state}
    assert entries == ({"step", "exp_avg", "exp_avg_sq"} if name == "adamw" else set())


def test_mixed_precision_trains_on_the_cpu_with_finite_gradients(
    plan_of: PlanOf, images: Any, scripted: Any, reply: Any
) -> None:
    plan = plan_of(precision="amp")
    alpha = np.full(9, 0.01)
    network, outcome = trained(
        plan, images(), alpha=alpha, exchange=scripted(lambda f: reply(f, 1e-3))
    )
    start = initial_network(plan)
    for (name, parameter), old in zip(network.named_parameters(), start.parameters(), strict=True):
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert torch.isfinite(parameter).all(), name
        assert not torch.equal(parameter, old), name
    assert np.isfinite(outcome.means.fd_by_tap(9)).all()


def test_mixed_precision_computes_the_forward_pass_in_bfloat16(
    plan_of: PlanOf, images: Any
) -> None:
    plan, seen = plan_of(precision="amp"), []
    network = initial_network(plan)
    convolution = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    convolution.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    train_round_(network, images(), request_of(plan))
    assert seen == [torch.bfloat16] * plan.steps_per_round


def test_a_step_without_a_reply_drops_the_cross_site_term_alone(
    plan_of: PlanOf, images: Any, dropping: Any
) -> None:
    plan, alpha = plan_of(), np.full(9, 0.01)
    exchange = dropping([0, 1])
    network, outcome = trained(plan, images(), alpha=alpha, exchange=exchange)
    without, _ = trained(plan_of(loss="fd"), images(), alpha=alpha)
    assert bits(network.state_dict()) == bits(without.state_dict())
    assert np.isnan(outcome.means.exch_by_tap(9)).all()
    stats = exchange.take_stats()
    assert (stats.steps, stats.answered, stats.dropped) == (2, 0, 2)


def test_the_mean_of_the_cross_site_term_is_over_answered_steps(
    plan_of: PlanOf, images: Any, scripted: Any, reply: Any
) -> None:
    def answer(frame: Any) -> Any:
        # Terms 1, none, 4: the mean over the answered steps is 2.5.
        return None if frame.key.step == 1 else reply(frame, terms=(1.0, 0.0, 4.0)[frame.key.step])

    plan = plan_of(steps_per_round=3)
    _, outcome = trained(plan, images(), alpha=np.zeros(9), exchange=scripted(answer))
    np.testing.assert_array_equal(outcome.means.exch_by_tap(9), np.full(9, 2.5))
    assert outcome.means.answered == 2


def test_a_required_exchange_voids_the_round_at_the_first_step_without_a_reply(
    plan_of: PlanOf, images: Any, dropping: Any
) -> None:
    plan = plan_of(exchange={"required": True})
    exchange = dropping([1])
    with pytest.raises(ExchangeIncomplete, match=r"step 1 of round 1.*exchange.required = true"):
        trained(plan, images(), alpha=np.zeros(9), exchange=exchange)
    assert len(exchange.frames) == 2


def test_steps_are_named_by_run_round_attempt_and_step(
    plan_of: PlanOf, images: Any, dropping: Any
) -> None:
    exchange = dropping([])
    train_round_(
        initial_network(plan_of()),
        images(),
        request_of(plan_of(), 3, attempt=2, alpha=np.zeros(9), exchange=exchange),
    )
    keys = [(f.key.run_id, f.key.server_round, f.key.attempt, f.key.step) for f in exchange.frames]
    assert keys == [("0" * 16, 3, 2, 0), ("0" * 16, 3, 2, 1)]


def test_rounds_go_on_in_the_stream_of_batches(plan_of: PlanOf) -> None:
    asked: list[int] = []

    class Recording(Black):
        def training_batch(self, global_step: int) -> tuple[Tensor, Tensor]:
            asked.append(global_step)
            return super().training_batch(global_step)

    plan = plan_of(steps_per_round=3)
    for server_round in (1, 2, 3):
        train_round_(OneWeight(1.0).float(), Recording(), request_of(plan, server_round))
    assert asked == list(range(9))


def test_every_step_is_told_after_it_was_made(plan_of: PlanOf, images: Any) -> None:
    told: list[int] = []
    plan = plan_of()
    train_round_(initial_network(plan), images(), request_of(plan), on_step=told.append)
    assert told == [1, 2]


def test_what_alpha_weighs_is_the_sum_only_where_prototypes_are_exchanged(plan_of: PlanOf) -> None:
    fd, exch = np.array([1.0, 2.0, np.nan]), np.array([0.5, np.nan, 0.5])
    np.testing.assert_array_equal(tap_losses(plan_of(), fd, exch), [1.5, np.nan, np.nan])
    np.testing.assert_array_equal(tap_losses(plan_of(loss="fd"), fd, exch), fd)

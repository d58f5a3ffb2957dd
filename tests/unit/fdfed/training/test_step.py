"""One step's losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fdfed.config import RunPlan
from fdfed.exchange import CotangentFrame, StepKey
from fdfed.losses import feature_discrepancy_loss, segmentation_loss
from fdfed.networks import Taps, TapSink
from fdfed.prototypes import batch_prototypes, masked_prototypes
from fdfed.training.initialise import initial_network
from fdfed.training.step import RemoteTerm, StepLosses, layout_of, step_losses

PlanOf = Callable[..., RunPlan]
KEY = StepKey("0" * 16, 1, 1, 0)


@pytest.fixture
def plan(plan_of: PlanOf) -> RunPlan:
    return plan_of(precision="fp64", norm="group")


@pytest.fixture
def batch(images: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return images(torch.float64).training_batch(0)


def losses_of(
    plan: RunPlan,
    batch: Any,
    alpha: np.ndarray | None,
    exchange: Any = None,
    scale: float = 1.0,
    *,
    key: StepKey = KEY,
) -> tuple[StepLosses, dict[str, torch.Tensor]]:
    network = initial_network(plan).train()
    remote = (
        None
        if exchange is None
        else RemoteTerm(exchange=exchange, key=key, scale=scale, patients=("one", "other"))
    )
    losses = step_losses(network, *batch, plan=plan, alpha=alpha, remote=remote)
    losses.objective.backward()
    return losses, {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in network.named_parameters()
    }


def test_the_objective_is_the_sum_of_its_equation(plan: RunPlan, batch: Any) -> None:
    network = initial_network(plan).train()
    alpha = np.linspace(0.1, 0.9, 9)
    losses = step_losses(network, *batch, plan=plan, alpha=alpha, remote=None)
    logits, taps = network.forward_with_taps(batch[0])
    expected = segmentation_loss(logits, batch[1])
    for weight, (name, features) in zip(alpha, taps.items(), strict=True):
        fd = feature_discrepancy_loss(*masked_prototypes(features, batch[1]))
        expected = expected + weight * fd
        torch.testing.assert_close(losses.fd[network.tap_names.index(name)], fd)
    torch.testing.assert_close(losses.objective, expected)
    assert losses.exch is None


def test_the_surrogate_has_the_gradient_of_the_cotangents_times_alpha_and_scale(
    plan: RunPlan, batch: Any, scripted: Any
) -> None:
    network = initial_network(plan).train()
    layout = layout_of(network)
    rng = np.random.default_rng(0)
    alpha, given, scale = rng.uniform(0.1, 1, 9), rng.normal(size=layout.size), 2.5

    def answer(frame: Any) -> Any:
        return CotangentFrame(frame.key, given, np.ones(9), np.ones(9), 1)

    # Cotangents of any size are let through here: `ratio` has no bound.
    free = plan.model_copy(update={"method": plan.method.model_copy(update={"form": "ratio"})})
    with_term, got = losses_of(free, batch, alpha, scripted(answer), scale)
    without, plain = losses_of(free, batch, alpha)
    _, taps = network.forward_with_taps(batch[0])
    objective = torch.zeros((), dtype=torch.float64)
    for weight, (name, fore, back) in zip(alpha, layout.spans(), strict=True):
        F, B, _ = batch_prototypes(*masked_prototypes(taps[name], batch[1]))
        objective = objective + scale * weight * (
            (F * torch.from_numpy(given[fore])).sum() + (B * torch.from_numpy(given[back])).sum()
        )
    objective.backward()
    torch.testing.assert_close(with_term.objective - without.objective, objective)
    for name, parameter in network.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(got[name] - plain[name], expected, rtol=1e-9, atol=1e-9)


def test_a_gradient_scaler_scales_the_cross_site_term_along_with_the_others(
    plan_of: PlanOf, images: Any, scripted: Any, reply: Any
) -> None:
    """As fp16 needs it: scaled for the backward pass, and the same gradient after unscaling."""
    plan, batch = plan_of(norm="group"), images().training_batch(0)
    _, expected = losses_of(plan, batch, np.ones(9), scripted(lambda f: reply(f, 0.1)))
    _, without = losses_of(plan, batch, np.ones(9))
    network = initial_network(plan).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    exchange = scripted(lambda f: reply(f, 0.1))
    remote = RemoteTerm(exchange=exchange, key=KEY, scale=1.0, patients=("one", "other"))
    losses = step_losses(network, *batch, plan=plan, alpha=np.ones(9), remote=remote)
    scaler.scale(losses.objective).backward()
    scaled = {name: p.grad.clone() for name, p in network.named_parameters()}
    scaler.unscale_(optimizer)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(scaled[name], 1024 * parameter.grad)
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(expected[name], without[name]) for name in without)


def test_a_tap_without_weight_is_measured_and_never_differentiated(
    plan: RunPlan, batch: Any, scripted: Any, reply: Any
) -> None:
    exchange = scripted(lambda f: reply(f, 0.1))
    losses, gradients = losses_of(plan, batch, np.zeros(9), exchange)
    _, of_seg = losses_of(plan, batch, None)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, of_seg[name], rtol=0, atol=0)
    assert torch.isfinite(losses.fd).all()
    np.testing.assert_array_equal(losses.exch, np.ones(9))
    assert np.abs(exchange.frames[0].vector).sum() > 0


def test_only_the_tap_with_weight_pulls(plan: RunPlan, batch: Any) -> None:
    alpha = np.zeros(9)
    alpha[0] = 1.0  # Enc1: nothing below the first block may feel it
    _, gradients = losses_of(plan, batch, alpha)
    _, of_seg = losses_of(plan, batch, None)
    changed = {n for n, g in gradients.items() if not torch.equal(g, of_seg[n])}
    network = initial_network(plan)
    prefix = next(iter(dict(network.named_parameters()))).rsplit(".", 2)[0]
    assert changed
    assert all(name.startswith(prefix) for name in changed)


def test_a_tap_without_a_valid_image_is_not_a_number_and_pulls_nothing(
    plan: RunPlan, images: Any, scripted: Any, reply: Any
) -> None:
    image, mask = images(torch.float64).training_batch(0)
    full = torch.ones_like(mask)
    exchange = scripted(lambda f: reply(f, 0.1))
    losses, gradients = losses_of(plan, (image, full), np.ones(9), exchange)
    assert torch.isnan(losses.fd).all()
    assert not losses.valid.any()
    assert not exchange.frames[0].valid.any()
    assert all(torch.isfinite(g).all() for g in gradients.values())


@pytest.mark.parametrize("excess", [0.99, 1.05])
def test_a_cotangent_beyond_the_bound_of_its_equation_is_dropped(
    plan: RunPlan, batch: Any, scripted: Any, reply: Any, excess: float
) -> None:
    layout = layout_of(initial_network(plan))
    # |∂(-log(D + ε))/∂(F, B)| <= 1 / √ε, reached at D = ε; here all of it is in one entry.
    bound = 1 / np.sqrt(plan.method.eps)

    def answer(frame: Any) -> Any:
        answered = reply(frame)
        answered.vector[layout.size - 1] = excess * bound
        return answered

    losses, gradients = losses_of(plan, batch, np.ones(9), scripted(answer))
    _, without = losses_of(plan, batch, np.ones(9))
    kept = excess < 1
    assert (losses.exch is not None) == kept
    assert all(torch.equal(gradients[name], without[name]) for name in without) != kept


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", np.float32), ("fp64", np.float64)])
def test_prototypes_leave_in_the_precision_of_the_plan(
    plan_of: PlanOf, images: Any, dropping: Any, precision: str, dtype: type
) -> None:
    plan, exchange = plan_of(precision=precision), dropping([])
    image, mask = images(torch.float64).training_batch(0)
    kind = torch.float64 if precision == "fp64" else torch.float32
    losses_of(plan, (image.to(kind), mask.to(kind)), np.zeros(9), exchange)
    assert exchange.frames[0].vector.dtype == dtype


def test_a_frame_holds_batch_means_alone(plan: RunPlan, batch: Any, dropping: Any) -> None:
    exchange = dropping([])
    losses_of(plan, batch, np.zeros(9), exchange)
    network = initial_network(plan).train()
    _, taps = network.forward_with_taps(batch[0])
    layout = layout_of(network)
    # 2 Σ C_l numbers, whatever the batch: nothing that has one row an image.
    assert exchange.frames[0].vector.shape == (2 * sum(network.tap_channels.values()),)
    for name, fore, back in layout.spans():
        F, B, _ = batch_prototypes(*masked_prototypes(taps[name], batch[1]))
        np.testing.assert_allclose(exchange.frames[0].vector[fore], F.detach().numpy())
        np.testing.assert_allclose(exchange.frames[0].vector[back], B.detach().numpy())


@pytest.mark.parametrize("bound", ["none", "normalise", "cap"])
def test_the_feature_terms_take_the_bound_of_the_plan(
    plan: RunPlan, batch: Any, scripted: Any, reply: Any, bound: str
) -> None:
    bounded = plan.model_copy(update={"method": plan.method.model_copy(update={"bound": bound})})
    network = initial_network(plan).train()
    # Features this large put every distance beyond the cap.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    exchange = scripted(reply)
    remote = RemoteTerm(exchange=exchange, key=KEY, scale=1.0, patients=("one", "other"))
    losses = step_losses(network, *batch, plan=bounded, alpha=np.ones(9), remote=remote)
    _, taps = network.forward_with_taps(batch[0])
    for index, features in enumerate(taps.values()):
        F, B, valid = masked_prototypes(features, batch[1])
        expected = feature_discrepancy_loss(F, B, valid, bound=bound)
        torch.testing.assert_close(losses.fd[index], expected)
    sent = exchange.frames[0].vector
    for name, fore, _ in layout_of(network).spans():
        F, _, _ = batch_prototypes(*masked_prototypes(taps[name], batch[1]), bound=bound)
        np.testing.assert_allclose(sent[fore], F.detach().numpy())


def test_beyond_the_cap_a_tap_no_longer_pulls(plan: RunPlan, images: Any) -> None:
    capped = plan.model_copy(update={"method": plan.method.model_copy(update={"bound": "cap"})})

    class Scaled(type(initial_network(plan))):  # type: ignore[misc]
        def _forward(self, image: torch.Tensor, taps: TapSink) -> torch.Tensor:
            own: Taps = {}
            logits: torch.Tensor = super()._forward(image, own)
            for name, features in own.items():
                taps[name] = 1e3 * features
            return logits

    network = initial_network(plan).train()
    network.__class__ = Scaled
    image, mask = images(torch.float64).training_batch(0)
    gradients = []
    for alpha in (None, np.ones(9)):
        network.zero_grad()
        losses = step_losses(network, image, mask, plan=capped, alpha=alpha, remote=None)
        losses.objective.backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    # D > 4 at every tap: the value is -log(4 + ε), worked from the definition, and the slope zero.
    torch.testing.assert_close(losses.fd, torch.full((9,), -np.log(4 + 1e-6)).double())
    for of_seg, of_all in zip(*gradients, strict=True):
        torch.testing.assert_close(of_all, of_seg)


def late(age: int, value: float = 0.5, **key: Any) -> Any:
    """A hub whose reply to the step before `age` others comes now."""

    def answer(frame: Any) -> CotangentFrame:
        taps = len(frame.valid)
        old = replace(frame.key, step=frame.key.step - age, **key)
        return CotangentFrame(
            old, np.full_like(frame.vector, value), np.ones(taps), np.ones(taps), 1
        )

    return answer


LATER = replace(KEY, step=7)


@pytest.mark.parametrize("age", [0, 1, 2, 3])
def test_a_reply_as_old_as_the_plan_allows_enters_like_todays_and_an_older_one_not_at_all(
    plan: RunPlan, batch: Any, scripted: Any, age: int
) -> None:
    exchange = plan.exchange.model_copy(update={"max_staleness": 2})
    patient = plan.model_copy(update={"exchange": exchange})
    alpha = np.full(9, 0.1)
    losses, gradients = losses_of(patient, batch, alpha, scripted(late(age)), key=LATER)
    served = late(0) if age <= 2 else lambda _: None
    expected, reference = losses_of(patient, batch, alpha, scripted(served), key=LATER)
    assert (losses.exch is None) == (age > 2)
    assert torch.equal(losses.objective, expected.objective)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, reference[name])


@pytest.mark.parametrize("changes", [{"server_round": 2}, {"attempt": 9}, {"run_id": "f" * 16}])
def test_a_reply_of_another_round_attempt_or_run_is_not_used(
    plan: RunPlan, batch: Any, scripted: Any, changes: dict[str, Any]
) -> None:
    exchange = plan.exchange.model_copy(update={"max_staleness": 16})
    patient = plan.model_copy(update={"exchange": exchange})
    hub = scripted(late(1, **changes))
    losses, _ = losses_of(patient, batch, np.full(9, 0.1), hub, key=LATER)
    assert losses.exch is None


def test_a_late_cotangent_of_a_tap_without_both_regions_today_is_left_out(
    plan: RunPlan, scripted: Any, images: Any
) -> None:
    image, mask = images(torch.float64).training_batch(0)
    exchange = plan.exchange.model_copy(update={"max_staleness": 1})
    patient = plan.model_copy(update={"exchange": exchange})
    whole = torch.ones_like(mask)
    alpha = np.full(9, 0.1)
    with_reply = losses_of(patient, (image, whole), alpha, scripted(late(1)), key=LATER)
    without = losses_of(patient, (image, whole), alpha, scripted(lambda _: None), key=LATER)
    assert with_reply[0].valid is not None
    assert not with_reply[0].valid.any()
    for name, gradient in with_reply[1].items():
        assert torch.equal(gradient, without[1][name])

"""One round of local training at a site: the steps, the optimiser, and the means to report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fdfed.config import RunPlan
from fdfed.errors import FdfedError, InvalidInput
from fdfed.exchange import Exchange, StepKey
from fdfed.losses import AuxiliaryLoss, Moment
from fdfed.networks import SegmentationNetwork
from fdfed.training.batches import on_device
from fdfed.training.precision import gradient_scaler
from fdfed.training.step import AuxiliaryTerm, RemoteTerm, StepLosses, step_losses

CorrectGradients = Callable[[nn.Module], None]
"""Changes the gradients of a network in place; they are unscaled, and its weights are those that
the step starts from."""


@runtime_checkable
class TrainingData(Protocol):
    """What a round needs of a site's data."""

    def training_batch(self, global_step: int) -> tuple[Tensor, Tensor]:
        """The batch of that step: image (n, c, h, w) in [0, 1] and mask (n, 1, h, w) in {0, 1};
        the same step gives the same batch, however often it is asked for."""
        ...

    def training_patients(self, global_step: int) -> tuple[str, ...]:
        """Whose each image of that batch is; asked for only where prototypes are exchanged."""
        ...


class ExchangeIncomplete(FdfedError):
    """A step had no cross-site term although the plan requires one; the round is void."""

    exit_code = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRound:
    """Which round is trained, and with what from outside."""

    plan: RunPlan
    run_id: str
    server_round: int
    attempt: int
    alpha: NDArray[np.float64] | None
    """α by tap; None in phase 1."""
    exchange: Exchange | None = None
    cotangent_scale: float = 1.0
    """N / n_s."""

    def step_key(self, step: int) -> StepKey:
        """The name of a step on the exchange stream; steps count from 0 within a round."""
        return StepKey(self.run_id, self.server_round, self.attempt, step)

    @property
    def first_step(self) -> int:
        """Steps trained in all rounds before this one."""
        return (self.server_round - 1) * self.plan.steps_per_round

    @property
    def first_batch(self) -> int:
        """The position in the stream of batches. A round that is repeated draws the same, except
        under masks: two sums over different sites of one and the same updates would differ by a
        single one of them."""
        if self.plan.aggregation != "masked":
            return self.first_step
        return self.first_step + (self.attempt - 1) * self._steps_of_the_run

    @property
    def _steps_of_the_run(self) -> int:
        return self.plan.rounds * self.plan.steps_per_round

    def moment(self, step: int) -> Moment:
        """What an auxiliary loss is told of a step; its draws go with the batches."""
        # Below 2⁶³, and another number for every pair of seed and batch.
        generator = torch.Generator().manual_seed((self.plan.seed << 31) + self.first_batch + step)
        return Moment(
            step=self.first_step + step, steps=self._steps_of_the_run, generator=generator
        )


@dataclass(slots=True)
class RoundMeans:
    """Running means over the steps of a round."""

    seg: list[Tensor] = field(default_factory=list)
    fd: list[Tensor] = field(default_factory=list)
    exch: list[NDArray[np.float64]] = field(default_factory=list)
    valid: list[Tensor] = field(default_factory=list)

    def add(self, losses: StepLosses) -> None:
        """Keeps device tensors as they are, so that no step waits for the device."""
        self.seg.append(losses.seg)
        if losses.fd is not None and losses.valid is not None:
            self.fd.append(losses.fd)
            self.valid.append(losses.valid)
        if losses.exch is not None:
            self.exch.append(losses.exch)

    @property
    def answered(self) -> int:
        """Steps whose cross-site term entered the objective."""
        return len(self.exch)

    def loss_seg(self) -> float:
        """Mean over all steps."""
        return float(torch.stack(self.seg).double().mean())

    def fd_by_tap(self, taps: int) -> NDArray[np.float64]:
        """Mean over the steps in which the tap was valid; NaN where it never was."""
        if not self.fd:
            return np.full(taps, np.nan)
        return torch.stack(self.fd).double().nanmean(dim=0).cpu().numpy()

    def exch_by_tap(self, taps: int) -> NDArray[np.float64]:
        """Mean over the answered steps in which the tap had a pair; NaN where it never had."""
        if not self.exch:
            return np.full(taps, np.nan)
        values = np.stack(self.exch)
        known = ~np.isnan(values)
        total = np.where(known, values, 0.0).sum(axis=0)
        count = known.sum(axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def valid_by_tap(self, taps: int) -> NDArray[np.float64]:
        """Share of the steps in which the tap was valid."""
        if not self.valid:
            return np.zeros(taps)
        return torch.stack(self.valid).double().mean(dim=0).cpu().numpy()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOutcome:
    """What a round leaves behind, beside the network it trained in place."""

    means: RoundMeans
    optimizer_state: dict[str, Tensor]
    seconds: float


def train_round_(
    network: SegmentationNetwork,
    data: TrainingData,
    request: LocalRound,
    *,
    auxiliary: AuxiliaryLoss | None = None,
    extra: AuxiliaryLoss | None = None,
    correct_gradients_: CorrectGradients | None = None,
    optimizer_state: dict[str, Tensor] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> RoundOutcome:
    """Trains `network`, and the heads of `auxiliary`, in place for the plan's `steps_per_round`
    steps.

    Args:
        auxiliary: the plan's auxiliary loss, as `initial_auxiliary` made it and the rounds before
            trained it; None if the plan has none.
        extra: for a study: a loss without trained parts that no plan names, added to L_seg.
        correct_gradients_: for a study: may change the gradients before each step.
        optimizer_state: from the round before, as `RoundOutcome` gave it; None starts afresh.
        on_step: told the number of steps done, after each.

    Raises:
        ExchangeIncomplete: if the plan requires every step's cross-site term and one is missing.
        InvalidInput: if the plan has an auxiliary loss and none was given, or the reverse.
    """
    plan, began = request.plan, time.perf_counter()
    if (auxiliary is None) != (plan.auxiliary_loss is None):
        raise InvalidInput(
            f"a round of a plan with loss = {plan.effective_loss} was given "
            f"{'no' if auxiliary is None else 'an'} auxiliary loss; give what "
            "initial_auxiliary(plan, network) makes"
        )
    device = next(network.parameters()).device
    trained = network if auxiliary is None else nn.ModuleList((network, auxiliary))
    optimizer = make_optimizer(trained, plan)
    if optimizer_state:
        load_optimizer_(optimizer, optimizer_state)
    set_learning_rate_(optimizer, plan, request.server_round)
    scaler = gradient_scaler(plan.precision, device)
    if _is_proximal(plan):
        correct_gradients_ = proximal(network, plan.proximal_mu)
    term = extra if auxiliary is None else auxiliary
    means = RoundMeans()
    network.train()
    batches = on_device(
        data.training_batch,
        range(request.first_batch, request.first_batch + plan.steps_per_round),
        device=device,
        dtype=torch.float64 if plan.precision == "fp64" else torch.float32,
    )
    for step, (image, mask) in enumerate(batches):
        remote = None
        if request.exchange is not None:
            remote = RemoteTerm(
                exchange=request.exchange,
                key=request.step_key(step),
                scale=request.cotangent_scale,
                patients=data.training_patients(request.first_step + step),
            )
        optimizer.zero_grad(set_to_none=True)
        losses = step_losses(
            network,
            image,
            mask,
            plan=plan,
            alpha=request.alpha,
            remote=remote,
            auxiliary=None if term is None else AuxiliaryTerm(term, request.moment(step)),
        )
        if remote is not None and losses.exch is None and plan.exchange.required:
            raise ExchangeIncomplete(
                f"step {step} of round {request.server_round} got no cross-site term, and the plan "
                "has exchange.required = true; the coordinator repeats the round"
            )
        scaler.scale(losses.objective).backward()
        if correct_gradients_ is not None:
            scaler.unscale_(optimizer)
            correct_gradients_(network)
        scaler.step(optimizer)
        scaler.update()
        means.add(losses)
        if on_step is not None:
            on_step(step + 1)
    return RoundOutcome(
        means=means,
        optimizer_state=dump_optimizer(optimizer),
        seconds=time.perf_counter() - began,
    )


def tap_losses(
    plan: RunPlan, fd: NDArray[np.float64], exch: NDArray[np.float64]
) -> NDArray[np.float64]:
    """L_l = L_fd,l + L_exch,l, what α_l weighs; NaN where a part of it was never valid.

    Site and coordinator both use it: the one to propose α, the other to set the dual target.
    """
    return fd + exch if plan.effective_loss == "fd+exch" else fd


def make_optimizer(network: nn.Module, plan: RunPlan) -> torch.optim.Optimizer:
    """The plan's optimiser over all of a module's weights, at the learning rate of round 1. α is
    none of them: it has its own rule."""
    if plan.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
        )
    return torch.optim.AdamW(
        network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
    )


def set_learning_rate_(optimizer: torch.optim.Optimizer, plan: RunPlan, server_round: int) -> None:
    """Gives the optimiser the learning rate of that round, in place."""
    for group in optimizer.param_groups:
        group["lr"] = plan.learning_rate_in(server_round)


def dump_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors, flat, named `<index of the parameter>.<entry>`, on the CPU."""
    return {
        f"{index}.{entry}": value.detach().cpu().clone()
        for index, entries in optimizer.state_dict()["state"].items()
        for entry, value in entries.items()
        if isinstance(value, Tensor)
    }


def load_optimizer_(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts copies of what `dump_optimizer` gave into the optimiser, in place."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, entry = name.split(".", 1)
        # PyTorch keeps the tensors that it is handed, and every step would change the caller's.
        state.setdefault(int(index), {})[entry] = tensor.clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _is_proximal(plan: RunPlan) -> bool:
    return plan.strategy == "fedprox" and plan.proximal_mu > 0


def proximal(towards: nn.Module, mu: float) -> CorrectGradients:
    """Adds μ (w − w₀), the gradient of μ/2 ‖w − w₀‖² (Li et al. 2020, arXiv:1812.06127, Eq. 2),
    with w₀ the weights that `towards` has now."""
    anchor = [parameter.detach().clone() for parameter in towards.parameters()]

    def add_(network: nn.Module) -> None:
        for parameter, start in zip(network.parameters(), anchor, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=mu)

    return add_

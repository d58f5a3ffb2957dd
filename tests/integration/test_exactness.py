"""Lockstep with cotangents is pooled training: the federated step equals autograd on the pooled
objective, through the hub, the stream, the sites and the strategy.

    L = Σ_s w_s L_seg,s + Σ_l α_l (Σ_s w_s L_fd,l,s + L_exch,l),   w_s = n_s / N
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.data import SplitCounts
from fdfed.exchange import BlindingSecret, HpkePrivateKey, padded_layout
from fdfed.losses import exchange_loss, feature_discrepancy_loss, segmentation_loss
from fdfed.prototypes import batch_prototypes, masked_prototypes
from fdfed.training.initialise import initial_network
from fdfed.training.sharing import put_tensors_
from fdfed.training.site_state import SiteStore
from fdfed.wire import TrainInstruction, TrainResult
from fdfed_client.exchange import ExchangeStream
from fdfed_client.exchange_identity import InsecureIdentity
from fdfed_client.site import Site
from fdfed_server.exchange_service import ExchangeService
from fdfed_server.hub import ExchangeHub
from fdfed_server.run_state import RunState
from fdfed_server.site_reply import SiteReply
from fdfed_server.strategy import Strategy
from fdfed_server.trained_round import TrainedRound
from tests.plans import PHASED

RUN = "0" * 16
SECRET = BlindingSecret(secrets.token_bytes(32), epoch=1)
"""Fresh, as in a deployment: every test here runs blinded."""
LEARNING_RATE = 0.1
ALPHA = (0.3, 0.1, 0.2, 0.05, 0.4, 0.15, 0.25, 0.35, 0.02)


@dataclass(frozen=True)
class OneBatch:
    """A site that trains on one fixed batch and says that it has `examples` images."""

    image: Tensor
    mask: Tensor
    examples: int
    phantoms: bool = False

    @property
    def counts(self) -> SplitCounts:
        return SplitCounts(self.examples, 0, 0, 0)

    def training_batch(self, global_step: int) -> tuple[Tensor, Tensor]:
        return self.image, self.mask

    def training_patients(self, global_step: int) -> tuple[str, ...]:
        return tuple(str(number) for number in range(len(self.image)))

    def evaluation_batches(self, part: str) -> Iterator[tuple[Tensor, Tensor, tuple[str, ...]]]:
        return iter(())


def plan_of(sites: Sequence[str], **changes: object) -> RunPlan:
    values: dict[str, object] = {
        "sites": list(sites),
        "network": "unet",
        "width": 4,
        "norm": "group",
        "in_channels": 1,
        "size": 32,
        "rounds": 2,
        "steps_per_round": 1,
        "optimizer": "sgd",
        "learning_rate": LEARNING_RATE,
        "weight_decay": 0.0,
        "precision": "fp64",
        "exchange": {"required": True},
    }
    return RunPlan.model_validate(PHASED | values | changes)


def batches(sites: Sequence[str]) -> dict[str, OneBatch]:
    """Unequal batches, unequal example counts, a blob of foreground in every image."""
    made = {}
    for number, site in enumerate(sites):
        rng = torch.Generator().manual_seed(number)
        n = 2 + number % 2
        mask = torch.zeros(n, 1, 32, 32, dtype=torch.float64)
        mask[:, :, 6 : 14 + 2 * (number % 3), 8:20] = 1
        noise = torch.rand(n, 1, 32, 32, generator=rng, dtype=torch.float64)
        made[site] = OneBatch(0.3 * number + noise + mask, mask, examples=5 + 7 * number)
    return made


@pytest.fixture
def names(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return tuple(f"site{i}" for i in range(request.param))


class Federation:
    """Real sites on a real, sealed loopback stream, blinded, and one real strategy."""

    def __init__(self, plan: RunPlan, data: Mapping[str, OneBatch], folder: Path) -> None:
        self.plan, self.data = plan, data
        self.strategy = Strategy(plan)
        self.hub = ExchangeHub(self.strategy.cross_site_terms)
        key = HpkePrivateKey.generate()
        self.service = ExchangeService(
            self.hub, address="127.0.0.1:0", sites=plan.sites, hpke_key=key, insecure=True
        )
        self.service.start()
        self.streams = {
            name: ExchangeStream(
                f"127.0.0.1:{self.service.port}",
                InsecureIdentity(site=name, server_hpke_key=key.public),
                reply_seconds=40,
            )
            for name in plan.sites
        }
        self.sites = {
            name: Site(
                name,
                lambda _, images=data[name]: images,
                SiteStore(folder / name),
                secret_of=lambda _: SECRET,
                open_exchange=lambda _, stream=self.streams[name]: stream,
            )
            for name in plan.sites
        }
        state = self.strategy.initial_state(RUN)
        alpha = np.array(ALPHA[: len(self.strategy.taps)])
        self.state = replace(state, completed_rounds=1, model=replace(state.model, alpha=alpha))

    @property
    def examples(self) -> dict[str, int]:
        return {name: self.data[name].examples for name in self.plan.sites}

    def instructions(self) -> dict[str, TrainInstruction]:
        return self.strategy.configure_train(self.state, 2, 1, self.examples)

    def answers(self, instructions: Mapping[str, TrainInstruction]) -> dict[str, TrainResult]:
        self.hub.open_round(
            RUN,
            2,
            1,
            sites=self.plan.sites,
            layout=padded_layout(self.strategy.layout),
            steps=1,
            deadline_seconds=30,
            max_missed_steps=3,
            dtype=np.dtype(np.float64),
        )
        with ThreadPoolExecutor(len(self.sites)) as pool:
            futures = {
                name: pool.submit(site.train, instructions[name])
                for name, site in self.sites.items()
            }
            results = {name: future.result() for name, future in futures.items()}
        self.hub.close_round()
        return results

    def aggregate(self, results: Mapping[str, TrainResult]) -> TrainedRound:
        replies = [SiteReply(site=n, record=results[n].to_record()) for n in self.plan.sites]
        return self.strategy.aggregate_train(self.state, 2, 1, self.examples, replies)

    def close(self) -> None:
        for stream in self.streams.values():
            stream.close()
        self.service.stop(grace=0.1)
        self.hub.close()


@pytest.fixture
def federation(names: tuple[str, ...], tmp_path: Path) -> Iterator[Federation]:
    federation = Federation(plan_of(names), batches(names), tmp_path)
    yield federation
    federation.close()


def pooled_gradient(
    plan: RunPlan, state: RunState, data: Mapping[str, OneBatch]
) -> tuple[float, dict[str, Tensor]]:
    """The objective and its gradient by autograd in one graph; the forward pass is per site."""
    network = initial_network(plan)
    put_tensors_(network, state.model.weights)
    network.train()
    total = sum(batch.examples for batch in data.values())
    alpha = torch.from_numpy(state.model.alpha)
    objective = torch.zeros((), dtype=torch.float64)
    means: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {n: [] for n in network.tap_names}
    for batch in data.values():
        logits, taps = network.forward_with_taps(batch.image)
        share = batch.examples / total
        objective = objective + share * segmentation_loss(logits, batch.mask)
        for weight, name in zip(alpha, network.tap_names, strict=True):
            prototypes = masked_prototypes(taps[name], batch.mask)
            objective = objective + share * weight * feature_discrepancy_loss(*prototypes)
            means[name].append(batch_prototypes(*prototypes))
    for weight, name in zip(alpha, network.tap_names, strict=True):
        foreground, background, valid = (
            torch.stack(part) for part in zip(*means[name], strict=True)
        )
        objective = objective + weight * exchange_loss(
            foreground, background, valid, form=plan.method.form
        )
    objective.backward()
    gradients = {
        name: p.grad if p.grad is not None else torch.zeros_like(p)
        for name, p in network.named_parameters()
    }
    return objective.item(), gradients


def relative_error(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    difference = sum(float((got[n] - expected[n]).square().sum()) for n in expected)
    scale = sum(float(expected[n].square().sum()) for n in expected)
    return float(np.sqrt(difference / scale))


def steps_of(weights: Mapping[str, np.ndarray], state: RunState, names: Sequence[str]) -> dict:
    """(W − W') / η: the gradient behind one SGD step."""
    start = state.model.weights
    return {n: torch.from_numpy((start[n] - weights[n]) / LEARNING_RATE) for n in names}


@pytest.mark.parametrize("names", [2, 3, 5], indirect=True)
def test_the_sum_of_the_sites_gradients_is_the_pooled_gradient(federation: Federation) -> None:
    results = federation.answers(federation.instructions())
    _, expected = pooled_gradient(federation.plan, federation.state, federation.data)
    total = sum(federation.examples.values())
    summed = {name: torch.zeros_like(value) for name, value in expected.items()}
    for site, result in results.items():
        own = steps_of(result.weights, federation.state, list(expected))
        for name in summed:
            summed[name] += federation.examples[site] / total * own[name]
    assert relative_error(summed, expected) < 1e-10


@pytest.mark.parametrize("names", [2, 3, 5], indirect=True)
def test_one_round_through_the_strategy_is_one_pooled_step(federation: Federation) -> None:
    trained = federation.aggregate(federation.answers(federation.instructions()))
    _, expected = pooled_gradient(federation.plan, federation.state, federation.data)
    got = steps_of(trained.model.weights, federation.state, list(expected))
    assert relative_error(got, expected) < 1e-10


@pytest.mark.parametrize("names", [3], indirect=True)
def test_alpha_moves_by_the_pooled_loss_of_its_tap(federation: Federation) -> None:
    target = np.linspace(-1, 1, len(federation.strategy.taps))
    federation.state = replace(
        federation.state, model=replace(federation.state.model, target=target)
    )
    trained = federation.aggregate(federation.answers(federation.instructions()))
    _, _, losses = pooled_terms(federation)
    rate, top = federation.plan.alpha.rate, federation.plan.alpha.maximum
    expected = np.clip(federation.state.model.alpha + rate * (losses - target), 0, top)
    np.testing.assert_allclose(trained.model.alpha, expected, atol=1e-12)


def pooled_terms(federation: Federation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Σ_s w_s L_fd,l,s, L_exch,l and their sum, by tap."""
    network = initial_network(federation.plan)
    put_tensors_(network, federation.state.model.weights)
    network.train()
    total = sum(federation.examples.values())
    fd, exch = [], []
    with torch.no_grad():
        taps = {s: network.forward_with_taps(b.image)[1] for s, b in federation.data.items()}
        for name in network.tap_names:
            made = {s: masked_prototypes(taps[s][name], b.mask) for s, b in federation.data.items()}
            fd.append(
                sum(
                    federation.examples[s] / total * float(feature_discrepancy_loss(*p))
                    for s, p in made.items()
                )
            )
            means = [batch_prototypes(*p) for p in made.values()]
            exch.append(
                float(exchange_loss(*(torch.stack(part) for part in zip(*means, strict=True))))
            )
    return np.array(fd), np.array(exch), np.array(fd) + np.array(exch)


@pytest.mark.parametrize("names", [3], indirect=True)
def test_relabelling_the_sites_changes_neither_loss_nor_step(
    federation: Federation, tmp_path: Path
) -> None:
    trained = federation.aggregate(federation.answers(federation.instructions()))
    turned = {
        new: federation.data[old]
        for new, old in zip(federation.plan.sites, reversed(federation.plan.sites), strict=True)
    }
    other = Federation(federation.plan, turned, tmp_path / "relabelled")
    try:
        again = other.aggregate(other.answers(other.instructions()))
    finally:
        other.close()
    for tap, loss in trained.losses.items():
        assert again.losses[tap].exch == pytest.approx(loss.exch, abs=1e-12)
        assert again.losses[tap].fd == pytest.approx(loss.fd, abs=1e-12)
    names = list(dict(initial_network(federation.plan).named_parameters()))
    error = relative_error(
        steps_of(again.model.weights, federation.state, names),
        steps_of(trained.model.weights, federation.state, names),
    )
    assert error < 1e-12


@pytest.mark.parametrize("names", [2], indirect=True)
def test_with_batch_normalisation_the_reference_normalises_each_site_by_itself(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    data = batches(names)
    federation = Federation(plan_of(names, norm="batch"), data, tmp_path)
    try:
        trained = federation.aggregate(federation.answers(federation.instructions()))
    finally:
        federation.close()
    _, expected = pooled_gradient(federation.plan, federation.state, data)
    got = steps_of(trained.model.weights, federation.state, list(expected))
    assert relative_error(got, expected) < 1e-10


@pytest.mark.parametrize("names", [3], indirect=True)
@pytest.mark.parametrize("form", ["paper", "ratio", "gap"])
def test_blinded_taps_of_any_width_and_every_form_give_the_pooled_step(
    names: tuple[str, ...], form: str, tmp_path: Path
) -> None:
    # Widths of 6, 12, 24, …: none is a power of two, so all are padded.
    plan = plan_of(names, width=6, norm="batch", method={"form": form, "bound": "none"})
    data = batches(names)
    federation = Federation(plan, data, tmp_path)
    assert federation.strategy.layout.size < padded_layout(federation.strategy.layout).size
    try:
        trained = federation.aggregate(federation.answers(federation.instructions()))
    finally:
        federation.close()
    _, expected = pooled_gradient(plan, federation.state, data)
    got = steps_of(trained.model.weights, federation.state, list(expected))
    assert relative_error(got, expected) < 1e-9


def shifted_weights(instruction: TrainInstruction) -> TrainInstruction:
    weights = {n: w + 1e-3 if w.dtype.kind == "f" else w for n, w in instruction.weights.items()}
    return replace(instruction, weights=weights)


@pytest.mark.parametrize("names", [2], indirect=True)
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(shifted_weights, id="other weights at one site"),
        pytest.param(
            lambda i: replace(i, total_examples=2 * i.total_examples),
            id="cotangents not scaled by N / n_s",
        ),
        pytest.param(lambda i: replace(i, alpha=i.alpha * 2), id="another alpha at one site"),
    ],
)
def test_a_broken_condition_is_seen_by_this_test(federation: Federation, spoil: object) -> None:
    instructions = federation.instructions()
    first = federation.plan.sites[0]
    instructions[first] = spoil(instructions[first])
    trained = federation.aggregate(federation.answers(instructions))
    _, expected = pooled_gradient(federation.plan, federation.state, federation.data)
    got = steps_of(trained.model.weights, federation.state, list(expected))
    assert relative_error(got, expected) > 1e-4

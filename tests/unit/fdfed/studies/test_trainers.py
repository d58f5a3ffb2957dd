"""The compared methods: what is theirs, by hand; what is not, bit for bit as deployed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fdfed.config import RunPlan
from fdfed.data import SiteData, write_phantoms
from fdfed.errors import InvalidInput
from fdfed.losses import Moment
from fdfed.simulation import open_sites, simulate_sites
from fdfed.studies.trainers import TRAINER_NAMES, create_trainer
from fdfed.studies.trainers.class_prototypes import AttractingPull, ClassPrototypes, PrototypePull
from fdfed.studies.trainers.loop import Trainer
from fdfed.studies.trainers.personal import FineTuning
from fdfed.studies.trainers.scaffold import Scaffold
from fdfed.training.initialise import initial_network
from fdfed.training.local_round import train_round_
from fdfed.training.model_file import load_model
from fdfed.training.sharing import put_tensors_
from fdfed_server.run_state import load_state
from tests.plans import PHASED

SITES = ("tnbc", "monuseg")
NOTHING: Mapping[str, float] = {}


def plan_of(**changes: Any) -> RunPlan:
    values: dict[str, Any] = {
        "sites": SITES,
        "width": 2,
        "crop": 16,
        "batch_size": 2,
        "rounds": 4,
        "steps_per_round": 2,
        "evaluate_every": 2,
        "strategy": "fedavg",
        "loss": "seg",
        "min_count": 1,
        "split": {"held_out": "test", "fold": 0, "folds": 2},
        "phantoms": True,
    }
    return RunPlan.model_validate(PHASED | values | changes)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteData]:
    folder = tmp_path_factory.mktemp("data")
    for number, site in enumerate(SITES):
        write_phantoms(folder, site, images=12 + 6 * number, size=32)
    return open_sites(plan_of(), folder)


@pytest.fixture(scope="module")
def averaged(sites: dict[str, SiteData], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployed federated averaging of `plan_of`."""
    out = tmp_path_factory.mktemp("averaged")
    simulate_sites(plan_of(), sites, out=out)
    return out


def same(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return ours.keys() == theirs.keys() and all(
        np.asarray(value).tobytes() == np.asarray(theirs[name]).tobytes()
        for name, value in ours.items()
    )


def test_the_loop_is_the_deployed_federated_averaging_bit_for_bit(
    sites: dict[str, SiteData], averaged: Path, tmp_path: Path
) -> None:
    trainer = Trainer(plan_of(), sites, tmp_path, NOTHING)
    trained = trainer.train()
    state = load_state(averaged / "state" / "run")
    assert state is not None
    assert same(trainer.common, state.model.weights)
    assert same(
        {n: t.numpy() for n, t in trained.networks["tnbc"].state_dict().items()},
        state.best.model.weights,
    )
    for ours, theirs in zip(trained.history, state.history, strict=True):
        scores = [{s: e.val_dice for s, e in r.sites.items()} for r in (ours, theirs)]
        assert scores[0] == scores[1]
        assert ours.bytes == theirs.bytes


@pytest.mark.parametrize("name", ["fedproto", "fedbcs", "ditto"])
def test_with_a_weight_of_zero_the_common_model_is_that_of_federated_averaging(
    name: str, sites: dict[str, SiteData], averaged: Path, tmp_path: Path
) -> None:
    trainer = create_trainer(name, plan_of(), sites, tmp_path, {"weight": 0.0})
    trainer.train()
    state = load_state(averaged / "state" / "run")
    assert state is not None
    assert same(trainer.common, state.model.weights)


def test_ditto_without_its_pull_trains_the_models_of_local_training(
    sites: dict[str, SiteData], tmp_path: Path
) -> None:
    simulate_sites(plan_of(strategy="local"), sites, out=tmp_path / "local")
    ditto = create_trainer("ditto", plan_of(), sites, tmp_path / "ditto", {"weight": 0.0}).train()
    for site in SITES:
        path = tmp_path / "local" / "models" / f"{site}.safetensors"
        network, _ = load_model(path, torch.device("cpu"))
        assert same(ditto.networks[site].state_dict(), network.state_dict())


def test_dittos_pull_keeps_the_personal_models_nearer_to_the_common_one(
    sites: dict[str, SiteData], tmp_path: Path
) -> None:
    plan = plan_of(optimizer="sgd", learning_rate=0.1)

    def distance(weight: float) -> float:
        ditto: Any = create_trainer(
            "ditto", plan, sites, tmp_path / str(weight), {"weight": weight}
        )
        ditto.train()
        return sum(
            float(np.square(ditto.personal[s][n] - ditto.common[n]).sum())
            for s in SITES
            for n in ditto.common
            if n.endswith("weight")
        )

    assert distance(5.0) < 0.5 * distance(0.0)


def test_with_sgd_a_control_is_the_second_option_of_the_paper(
    sites: dict[str, SiteData], tmp_path: Path
) -> None:
    rate, steps = 0.05, 2
    plan = plan_of(optimizer="sgd", learning_rate=rate, weight_decay=0.0, norm="group")
    ended: dict[str, list[torch.Tensor]] = {}

    class Watched(Scaffold):
        def _local_round(self, site: str, number: int) -> None:
            super()._local_round(site, number)
            ended[site] = [p.detach().clone() for p in self.network.parameters()]

    trainer = Watched(plan, sites, tmp_path, NOTHING)
    for number in (1, 2, 3):
        put_tensors_(trainer.network, trainer.common)
        start = [p.detach().clone() for p in trainer.network.parameters()]
        before, common = dict(trainer.controls), list(trainer.control)
        trainer._round(number)
        for site in SITES:
            # c_s+ = c_s - c + (x - y_s) / (K η)
            expected = [
                own - c + (x - y) / (steps * rate)
                for own, c, x, y in zip(before[site], common, start, ended[site], strict=True)
            ]
            for found, value in zip(trainer.controls[site], expected, strict=True):
                torch.testing.assert_close(found, value, rtol=1e-3, atol=2e-5)
    # The weights are by images: 6 and 9 train, less those that are held out.
    shares = trainer.shares
    mean = sum(shares[site] * trainer.controls[site][0] for site in SITES)
    torch.testing.assert_close(trainer.control[0], mean)


def test_a_control_shifts_a_gradient_by_hand(sites: dict[str, SiteData], tmp_path: Path) -> None:
    trainer = Scaffold(plan_of(), sites, tmp_path, NOTHING)
    first = next(iter(trainer.network.parameters()))
    trainer.control[0] += 3.0
    trainer.controls["tnbc"][0] += 1.0
    correct_ = trainer._corrector("tnbc")
    first.grad = torch.full_like(first, 10.0)
    correct_(trainer.network)
    # g - c_s + c = 10 - 1 + 3; what is remembered of it is the 10.
    torch.testing.assert_close(first.grad, torch.full_like(first, 12.0))
    torch.testing.assert_close(trainer._sums["tnbc"][0], torch.full_like(first, 10.0))


def test_scaffold_of_one_site_is_federated_averaging(
    sites: dict[str, SiteData], tmp_path: Path
) -> None:
    one = {"tnbc": sites["tnbc"]}
    plan = plan_of(sites=("tnbc",))
    results = []
    for kind in (Scaffold, Trainer):
        trainer = kind(plan, one, tmp_path / kind.__name__, NOTHING)
        trainer.train()
        results.append(trainer.common)
    assert same(*results)


def test_fine_tuning_trains_on_from_the_best_common_weights_with_a_fresh_optimiser(
    sites: dict[str, SiteData], tmp_path: Path
) -> None:
    trainer = FineTuning(plan_of(), sites, tmp_path, {"share": 0.25})
    trained = trainer.train()
    # Three rounds of averaging, of which the second and the third are scored, and one of tuning.
    best = max((3, 2), key=lambda n: trained.history[n - 1].mean_val_dice or 0)
    common = Trainer(plan_of(rounds=best), sites, tmp_path / "common", NOTHING)
    common.train()
    for site in SITES:
        network = initial_network(plan_of()).to(memory_format=torch.channels_last)
        put_tensors_(network, common.common)
        train_round_(network, sites[site], trainer._request(4))
        assert same({n: t.numpy() for n, t in network.state_dict().items()}, trainer.own[site])
        # The site keeps what scores best on its own images, tuned or not.
        scores = [trained.history[n - 1].sites[site].val_dice or 0 for n in (best, 4)]
        kept = common.common if scores[0] > scores[1] else trainer.own[site]
        assert same({n: t.numpy() for n, t in trained.networks[site].state_dict().items()}, kept)
    assert trained.history[3].bytes.up == 0


WHEN = Moment(step=0, steps=1, generator=torch.Generator())
MASK = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).reshape(1, 1, 2, 2)


def level(foreground: list[float], background: list[float]) -> torch.Tensor:
    """A map of two channels whose prototypes under `MASK` are these."""
    columns = torch.tensor([foreground, background, background, background])
    return columns.T.reshape(1, 2, 2, 2)


def test_the_pull_of_fedproto_by_hand() -> None:
    towards = {"Bot": (torch.tensor([1.0, 1.0]), torch.tensor([0.0, 2.0]))}
    pull = PrototypePull({"Bot": 2}, weight=0.5, towards=towards)
    found = pull({"Bot": level([3.0, 0.0], [0.0, 1.0])}, MASK, WHEN)
    # Foreground (4 + 1) / 2, background (0 + 1) / 2, their mean 1.5, times 0.5.
    assert float(found) == pytest.approx(0.75)
    assert [p.tolist() for p in pull.means["Bot"]] == [[3.0, 0.0], [0.0, 1.0]]


def test_the_pull_of_fedbcs_by_hand_leaves_the_background_alone() -> None:
    towards = {"Bot": (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))}
    pull = AttractingPull({"Bot": 2}, weight=1.0, towards=towards)
    features = level([2.0, 0.0], [5.0, 7.0]).requires_grad_()
    found = pull({"Bot": features}, MASK, WHEN)
    # Mean square (1 + 0) / 2; cosines 1 and 0 over τ = 0.1: log(1 + e^-10).
    assert float(found.detach()) == pytest.approx(0.5 + math.log1p(math.exp(-10)))
    found.backward()
    assert features.grad is not None
    assert not features.grad[0, :, 0, 1].any()
    assert not features.grad[0, :, 1].any()
    assert features.grad[0, :, 0, 0].any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_step_down_the_pull_comes_nearer_to_everybodys_prototypes(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(2, generator=rng) for _ in range(2)]
    features = torch.randn(1, 2, 2, 2, generator=rng).requires_grad_()
    pull = PrototypePull({"Bot": 2}, weight=1.0, towards={"Bot": (drawn[0], drawn[1])})
    before = pull({"Bot": features}, MASK, WHEN)
    before.backward()
    assert features.grad is not None
    after = pull({"Bot": (features - 0.1 * features.grad).detach()}, MASK, WHEN)
    assert float(after) < float(before.detach())


def test_an_image_without_both_classes_pulls_nothing_and_is_not_gathered() -> None:
    towards = {"Bot": (torch.ones(2), torch.ones(2))}
    pull = PrototypePull({"Bot": 2}, weight=1.0, towards=towards)
    assert float(pull({"Bot": torch.rand(1, 2, 2, 2)}, torch.ones(1, 1, 2, 2), WHEN)) == 0
    assert pull.means == {}


def test_everybodys_prototypes_are_the_means_of_the_sites_by_images(
    sites: dict[str, SiteData], tmp_path: Path
) -> None:
    trainer = ClassPrototypes(plan_of(), sites, tmp_path, NOTHING)
    trainer._round(1)
    (tap,) = trainer._taps()
    means = {site: pull.means[tap] for site, pull in trainer._pulls.items()}
    train = {site: len(sites[site].parts["train"]) for site in SITES}
    for place in (0, 1):
        expected = sum(train[s] * means[s][place] for s in SITES) / sum(train.values())
        torch.testing.assert_close(trainer.prototypes[tap][place], expected)
    # Two vectors of the tap's channels, in fp32.
    assert trainer._extra_bytes() == 2 * 4 * trainer.network.tap_channels[tap]


@pytest.mark.parametrize("name", TRAINER_NAMES)
def test_a_training_that_was_cut_ends_as_one_that_was_not(
    name: str, sites: dict[str, SiteData], tmp_path: Path
) -> None:
    plan = plan_of()
    whole = create_trainer(name, plan, sites, tmp_path / "whole", NOTHING).train()
    for number in range(1, plan.rounds + 1):
        create_trainer(name, plan, sites, tmp_path / "cut", NOTHING)._round(number)
    again = create_trainer(name, plan, sites, tmp_path / "cut", NOTHING).train()
    for site in SITES:
        assert same(whole.networks[site].state_dict(), again.networks[site].state_dict())
    assert [r.mean_val_dice for r in whole.history] == [r.mean_val_dice for r in again.history]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "changes", "parameters", "message"),
    [
        ("scaffold", {}, {"weight": 1.0}, "takes no parameters"),
        ("ditto", {}, {"mu": 1.0}, "got the parameters mu .* takes weight"),
        ("fedproto", {"loss": "fd"}, {}, "loss = fd; it needs fedavg and seg"),
        ("scaffold", {"update_precision": "bf16"}, {}, "update_precision = bf16; leave that out"),
        ("moon", {}, {}, "there is no trainer moon; use one of: scaffold, ditto"),
    ],
)
def test_a_plan_or_parameter_that_a_trainer_does_not_take_is_refused(
    *,
    name: str,
    changes: dict[str, Any],
    parameters: dict[str, float],
    message: str,
    sites: dict[str, SiteData],
    tmp_path: Path,
) -> None:
    with pytest.raises(InvalidInput, match=message):
        create_trainer(name, plan_of(**changes), sites, tmp_path, parameters)


def test_the_modules_of_a_pull_hold_nothing_to_train() -> None:
    pull = PrototypePull({"Bot": 2}, weight=1.0, towards={})
    assert isinstance(pull, nn.Module)
    assert not list(pull.parameters())

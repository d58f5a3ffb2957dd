"""The model that a site would have without the others, and whether joining helped it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from fdfed.config import AlphaPlan, RunPlan
from fdfed.data import SiteData, SplitCounts, write_phantoms
from fdfed.errors import InvalidInput
from fdfed.simulation import open_sites, simulate_sites
from fdfed.training.initialise import initial_network
from fdfed.training.model_file import load_model
from fdfed.training.sharing import shared_names, take_tensors
from fdfed.training.site_state import SiteStore
from fdfed.wire import EvaluateInstruction, TrainInstruction
from fdfed_client.alone import TrainingAlone, fine_tuned, plan_alone
from fdfed_client.baseline import LocalBaseline
from fdfed_client.joining import JoiningAnswer, answer_for, check_comparable
from fdfed_client.site import Site

CPU = torch.device("cpu")
RUN = "ab" * 8
PLAN = RunPlan(
    sites=("alpha", "beta"),
    width=4,
    size=32,
    rounds=4,
    steps_per_round=2,
    batch_size=4,
    min_count=1,
    phantoms=True,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SiteData:
    folder = tmp_path_factory.mktemp("data")
    write_phantoms(folder, "alpha", images=20, size=32)
    return open_sites(PLAN.model_copy(update={"sites": ("alpha",)}), folder)["alpha"]


def training(data: SiteData, folder: Path, plan: RunPlan = PLAN) -> TrainingAlone:
    return TrainingAlone(plan, data, site="alpha", store=SiteStore(folder), run_id=RUN, device=CPU)


def bits(network: torch.nn.Module) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in network.state_dict().items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "seg"},
        {"loss": "fd+exch"},
        {"loss": "fd", "phase_2_start": "last"},
        {"loss": "fd", "warm_start": False, "alpha": AlphaPlan(taps=("Bot",))},
        {"loss": "deeps"},
    ],
)
def test_it_is_a_federation_of_this_site_alone_to_the_bit(
    data: SiteData, tmp_path: Path, changes: dict[str, Any]
) -> None:
    plan = PLAN.model_copy(update=changes)
    alone = training(data, tmp_path / "alone", plan)
    while not alone.done:
        alone.train_round()
    with mock.patch("fdfed.simulation.run.write_report"):  # it takes longer than the run itself
        simulate_sites(plan_alone(plan, "alpha"), {"alpha": data}, out=tmp_path / "run")
    expected, _ = load_model(tmp_path / "run" / "models" / "alpha.safetensors", CPU)
    assert bits(alone.best()) == bits(expected)


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    data: SiteData, tmp_path: Path
) -> None:
    whole = training(data, tmp_path / "whole")
    for _ in range(PLAN.rounds):
        whole.train_round()
        training(data, tmp_path / "parts").train_round()
    again = training(data, tmp_path / "parts")
    assert again.done
    assert bits(again.best()) == bits(whole.best())


def test_alone_nothing_is_exchanged_masked_or_made_noisy() -> None:
    masked = RunPlan(sites=("a", "b", "c"), aggregation="masked", quorum=3)
    own = plan_alone(masked, "a")
    assert (own.sites, own.strategy, own.effective_loss) == (("a",), "local", "fd")
    assert (own.aggregation, own.privacy, own.quorum) == ("plain", None, None)
    assert (own.rounds, own.steps_per_round, own.seed) == (
        masked.rounds,
        masked.steps_per_round,
        masked.seed,
    )


def test_fine_tuning_leaves_the_federation_s_model_as_it_was(data: SiteData) -> None:
    shared = initial_network(PLAN)
    before = bits(shared)
    tuned, steps = fine_tuned(shared, PLAN, data, site="alpha")
    assert steps == 2  # a tenth of four rounds, rounded up to one
    assert bits(shared) == before
    assert bits(tuned) != before


@pytest.mark.parametrize("strategy", ["local", "pooled"])
def test_a_plan_in_which_nobody_joins_is_not_compared(strategy: Any) -> None:
    with pytest.raises(InvalidInput, match="nobody joins one"):
        check_comparable(RunPlan(sites=("a",), strategy=strategy))


def test_the_kept_model_says_what_it_scores_on_this_site_s_images(
    data: SiteData, tmp_path: Path
) -> None:
    shared = initial_network(PLAN)
    found = answer_for("alpha", PLAN, data, shared, training(data, tmp_path / "alone"))
    found.write(tmp_path / "local", site="alpha")
    network, header = load_model(tmp_path / "local" / "kept.safetensors", CPU)
    assert bits(network) == bits(found.kept)
    assert header.site == "alpha"
    assert header.dice["alpha"].mean == pytest.approx(found.joining.scores[found.joining.kept].test)
    lines = (tmp_path / "local" / "joining.csv").read_text().splitlines()
    assert lines[0] == "site,name,patient,shared,fine_tuned,alone"
    assert len(lines) == 1 + data.counts.test


class Gated:
    """Images whose every training batch is counted."""

    phantoms = True
    patients_known = False
    counts = SplitCounts(4, 2, 2, 0)

    def __init__(self) -> None:
        self.batches = 0
        self.asked = threading.Event()

    def training_batch(self, global_step: int) -> tuple[Tensor, Tensor]:
        self.batches += 1
        self.asked.set()
        mask = torch.zeros(2, 3, 32, 32)[:, :1]
        mask[:, :, 4:20, 4:20] = 1
        return 0.5 * mask.expand(-1, 3, -1, -1) + 0.01 * global_step, mask

    def training_patients(self, global_step: int) -> tuple[str, ...]:
        return ("one", "other")

    def patients_of(self, part: str) -> dict[str, str]:
        return {f"{part}-{number}": f"{number}" for number in range(2)}

    def evaluation_batches(self, part: str) -> Iterator[tuple[Tensor, Tensor, tuple[str, ...]]]:
        for number in range(2):
            image, mask = Gated.training_batch(self, number)
            yield image[:1], mask[:1], (f"{part}-{number}",)


def instruction(server_round: int) -> TrainInstruction:
    network = initial_network(PLAN)
    return TrainInstruction(
        plan=PLAN.model_copy(update={"loss": "seg"}),
        run_id=RUN,
        server_round=server_round,
        attempt=1,
        phase=1,
        total_examples=4,
        best_round=0,
        alpha=torch.zeros(9, dtype=torch.float64).numpy(),
        target=None,
        weights=take_tensors(network, shared_names(network, "fdfed")),
    )


def test_an_agent_answers_after_the_run_and_no_step_begins_while_its_site_works(
    tmp_path: Path,
) -> None:
    answers: list[JoiningAnswer] = []
    baseline = LocalBaseline(
        tmp_path / "alone", told=lambda site, run, found: answers.append(found)
    )
    images = Gated()
    site = Site(
        "alpha", lambda _: images, SiteStore(tmp_path / "rounds"), on_result=baseline.answered
    )
    with baseline.site_at_work():
        trained = instruction(1)
        site.train(trained)  # this begins the baseline, in a thread
        own = images.batches
        images.asked.clear()
        # Long enough for a thread to take a batch, if it could.
        assert not images.asked.wait(0.3)
        assert images.batches == own
    assert images.asked.wait(60)
    with baseline.site_at_work():
        site.evaluate(
            EvaluateInstruction(
                plan=trained.plan,
                run_id=RUN,
                server_round=1,
                part="test",
                weights=trained.weights,
            )
        )
    assert baseline.wait(120)
    (found,) = answers
    assert found.joining.steps == PLAN.rounds * PLAN.steps_per_round
    assert found.joining.scores["shared"].test is not None
    baseline.close()


def test_an_agent_that_is_stopped_too_early_says_that_the_answer_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    baseline = LocalBaseline(tmp_path / "alone", told=lambda *_: None)
    images = Gated()
    site = Site(
        "alpha", lambda _: images, SiteStore(tmp_path / "rounds"), on_result=baseline.answered
    )
    site.train(instruction(1))
    with caplog.at_level(logging.WARNING):
        baseline.close()
    assert "is not answered" in caplog.text

"""A site's own account of a run."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.data import SplitCounts
from fdfed.evaluation.joining import MODELS, compare
from fdfed.evaluation.results_files import load_per_image, load_results
from fdfed.training.initialise import initial_network
from fdfed.training.model_file import ModelHeader
from fdfed.training.sharing import shared_names, take_tensors
from fdfed.training.site_state import SiteStore
from fdfed.wire import EvaluateInstruction, TrainInstruction
from fdfed_client.joining import JoiningAnswer
from fdfed_client.local_report import LocalReport
from fdfed_client.site import Site

PLAN = RunPlan(
    sites=("a", "b"),
    width=4,
    in_channels=1,
    size=32,
    rounds=3,
    steps_per_round=1,
    loss="fd",
    min_count=2,
)
NETWORK = initial_network(PLAN)
WEIGHTS = take_tensors(NETWORK, shared_names(NETWORK, PLAN.strategy))
ALPHA = np.linspace(0.001, 0.009, 9)


class Images:
    phantoms = False
    counts = SplitCounts(4, 2, 3, 0)

    def training_batch(self, global_step: int) -> tuple[Tensor, Tensor]:
        mask = torch.zeros(2, 1, 32, 32)
        mask[:, :, 4:20, 4:20] = 1
        return 0.5 * mask + 0.01 * global_step, mask

    def training_patients(self, global_step: int) -> tuple[str, ...]:
        return ("one", "other")

    def evaluation_batches(self, part: str) -> Iterator[tuple[Tensor, Tensor, tuple[str, ...]]]:
        image, mask = self.training_batch(7)
        for number in range(2 if part == "validation" else 3):
            yield image[:1], mask[:1], (f"{part}-{number}",)


def train(server_round: int, run_id: str) -> TrainInstruction:
    return TrainInstruction(
        plan=PLAN,
        run_id=run_id,
        server_round=server_round,
        attempt=1,
        phase=PLAN.phase(server_round),
        total_examples=4,
        best_round=server_round - 1,
        alpha=ALPHA,
        target=None,
        weights=WEIGHTS,
    )


def evaluation(server_round: int, part: Any, run_id: str) -> EvaluateInstruction:
    return EvaluateInstruction(
        plan=PLAN, run_id=run_id, server_round=server_round, part=part, weights=WEIGHTS
    )


def site_of(folder: Path) -> Site:
    report = LocalReport(folder / "local")
    return Site("a", lambda _: Images(), SiteStore(folder / "rounds"), on_result=report.add)


def test_a_report_of_its_own_rounds_and_images_stays_at_the_site(tmp_path: Path) -> None:
    run_id = "ab" * 8
    site = site_of(tmp_path)
    for server_round in (1, 2, 3):
        site.train(train(server_round, run_id))
        site.evaluate(evaluation(server_round, "validation", run_id))
    site.evaluate(evaluation(2, "test", run_id))
    folder = tmp_path / "local" / run_id
    assert sorted(path.name for path in folder.iterdir()) == [
        *("images.csv", "report.html", "results.json", "rounds.csv"),
    ]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    results = load_results(folder / "results.json")
    assert [record.round for record in results.rounds] == [1, 2, 3]
    assert all(record.sites["a"].val_dice is not None for record in results.rounds)
    assert results.model_round == 2
    assert results.sites["a"].n_scored == 3
    names = [row.name for row in load_per_image(folder / "results.json")]
    assert names == ["test-0", "test-1", "test-2"]


def test_the_alpha_of_a_round_is_that_it_was_trained_with_and_not_the_proposal(
    tmp_path: Path,
) -> None:
    run_id = "ab" * 8
    site = site_of(tmp_path)
    result = site.train(train(3, run_id))
    assert not np.allclose(np.nan_to_num(result.alpha), ALPHA)
    site.evaluate(evaluation(3, "test", run_id))
    results = load_results(tmp_path / "local" / run_id / "results.json")
    assert list(results.rounds[0].alpha.values()) == ALPHA.tolist()
    assert list(results.alpha.values()) == ALPHA.tolist()


def test_another_run_begins_another_account(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    site.train(train(1, "ab" * 8))
    site.train(train(2, "cd" * 8))
    site.evaluate(evaluation(2, "test", "cd" * 8))
    results = load_results(tmp_path / "local" / ("cd" * 8) / "results.json")
    assert [record.round for record in results.rounds] == [2]
    assert not (tmp_path / "local" / ("ab" * 8)).exists()


def test_a_repeated_round_replaces_its_first_attempt(tmp_path: Path) -> None:
    run_id = "ab" * 8
    site = site_of(tmp_path)
    site.train(train(1, run_id))
    site.train(replace(train(1, run_id), attempt=2))
    site.evaluate(evaluation(1, "test", run_id))
    results = load_results(tmp_path / "local" / run_id / "results.json")
    assert [(record.round, record.attempt) for record in results.rounds] == [(1, 2)]


def test_the_report_counts_the_bytes_that_this_site_sent_and_got(tmp_path: Path) -> None:
    run_id = "ab" * 8
    site = site_of(tmp_path)
    site.train(train(1, run_id))
    site.evaluate(evaluation(1, "validation", run_id))
    site.evaluate(evaluation(1, "test", run_id))
    results = load_results(tmp_path / "local" / run_id / "results.json")
    weights = sum(value.nbytes for value in WEIGHTS.values())
    assert (results.bytes.up, results.bytes.down) == (weights, 2 * weights)


def test_the_report_is_written_anew_with_the_answer_whether_joining_helped(
    tmp_path: Path,
) -> None:
    run_id = "ab" * 8
    report = LocalReport(tmp_path / "local")
    site = Site("a", lambda _: Images(), SiteStore(tmp_path / "rounds"), on_result=report.add)
    site.train(train(1, run_id))
    site.evaluate(evaluation(1, "test", run_id))
    folder = tmp_path / "local" / run_id
    assert "Did joining help?" not in (folder / "report.html").read_text()
    scores = dict.fromkeys(MODELS, site.image_scores)
    joining, rows = compare(
        scores,
        scores,
        patients={score.name: score.name for score in site.image_scores},
        patients_known=False,
        steps=3,
        fine_tuning_steps=1,
    )
    header = ModelHeader(
        network="unet", width=4, norm="batch", in_channels=1, size=32, taps=NETWORK.tap_names
    )
    found = JoiningAnswer(joining, rows, NETWORK, header)
    report.joined("a", "cd" * 8, found)
    assert not (folder / "kept.safetensors").exists(), "the answer to another run"
    report.joined("a", run_id, found)
    html = (folder / "report.html").read_text()
    assert "Did joining help?" in html
    assert "Whether joining helped a is open" in html
    assert load_results(folder / "results.json").joining["a"] == joining
    assert (folder / "kept.safetensors").exists()
    assert (folder / "joining.csv").exists()

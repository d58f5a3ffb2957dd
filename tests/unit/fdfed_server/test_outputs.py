"""The files of a finished run at the coordinator, by hand-worked numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fdfed.config import RunPlan
from fdfed.evaluation.aggregates import Aggregate
from fdfed.evaluation.results import ExchangeResult, RoundRecord, SiteRound, Traffic
from fdfed.evaluation.results_files import load_results
from fdfed.exchange import ExchangeStats
from fdfed.training.model_file import load_model, read_header
from fdfed.wire import EvaluateResult, Prepared
from fdfed_server.outputs import model_header, results_of, write_run
from fdfed_server.rounds import RunOutcome
from fdfed_server.strategy import Strategy
from tests.unit.fdfed_server.scripted_grid import plan_of

RUN = "ab" * 8


def outcome_of(plan: RunPlan) -> RunOutcome:
    """A run of two rounds of which the first is the best; b withholds its test scores."""
    state = Strategy(plan).initial_state(RUN)
    history = tuple(
        RoundRecord(
            round=number,
            phase=1,
            sites={"a": SiteRound(val_dice=0.9 - 0.1 * number), "b": SiteRound(refused="gone")},
            alpha={f"tap{n}": 0.0 for n in range(9)},
            bytes=Traffic(up=100 * number, down=10 * number),
        )
        for number in (1, 2)
    )
    state = replace(
        state,
        completed_rounds=2,
        history=history,
        seconds=7.5,
        best=replace(state.best, server_round=1, score=0.8),
        site_best={"a": (2, 0.8), "b": (1, 0.5)},
    )
    counts = {"num_train": 10, "num_validation": 3, "num_test": 4, "num_empty": 0}
    sites = {
        site: Prepared(site=site, phantoms=False, version="1", **counts) for site in ("a", "b")
    }
    dice = Aggregate(4, 0, 0.75, 0.1, np.nan, np.nan, np.nan)
    test = {
        "a": EvaluateResult(run_id=RUN, server_round=1, part="test", dice=dice, iou=dice),
        "b": EvaluateResult(run_id=RUN, server_round=1, part="test", dice=None, iou=None),
    }
    return RunOutcome(state=state, sites=sites, test=test)


def test_the_exchange_of_all_sites_and_rounds_as_worked_by_hand() -> None:
    stats = [
        ExchangeStats(
            steps=4,
            answered=3,
            dropped=1,
            peers_mean=2.0,
            bytes_up=10,
            bytes_down=20,
            swap_ms_p50=1.0,
            swap_ms_p99=5.0,
        ),
        ExchangeStats(
            steps=4,
            answered=1,
            dropped=3,
            peers_mean=0.0,
            bytes_up=1,
            bytes_down=2,
            swap_ms_p50=3.0,
            swap_ms_p99=4.0,
        ),
        ExchangeStats(steps=4, dropped=4, bytes_up=100),
    ]
    result = ExchangeResult.of(stats)
    assert (result.steps, result.answered) == (12, 4)
    # (3 · 2 + 1 · 0) / 4 answered steps.
    assert result.peers_mean == 1.5
    assert (result.bytes_up, result.bytes_down) == (111, 22)
    # Medians and extremes of those that waited at all.
    assert (result.swap_ms_p50, result.swap_ms_p99) == (2.0, 5.0)


def test_a_run_without_an_exchange_has_zeros_and_no_wait() -> None:
    result = ExchangeResult.of([])
    assert (result.steps, result.peers_mean) == (0, 0.0)
    assert (result.swap_ms_p50, result.swap_ms_p99) == (None, None)


def test_the_results_are_sums_and_aggregates_of_the_run() -> None:
    results = results_of(outcome_of(plan_of()), transport="mTLS")
    assert (results.bytes.up, results.bytes.down) == (300, 30)
    assert results.seconds == {"total": 7.5}
    assert results.sites["a"].dice == 0.75
    assert results.sites["a"].n_scored == 4
    assert (results.sites["b"].dice, results.sites["b"].n_test) == (None, 4)
    assert (results.best_round, results.model_round) == (1, 1)
    assert results.privacy.transport == "mTLS"
    assert not results.privacy.differential_privacy
    assert results.privacy.epsilon is None


@pytest.mark.parametrize(
    ("strategy", "site", "made_in", "vouched"),
    [
        ("fedavg", None, 1, {"a"}),
        ("fedbn", None, 1, set()),
        ("fedbn", "a", 1, {"a"}),
        ("fedbn", "b", 1, set()),
        ("local", "a", 2, {"a"}),
        ("local", "b", 1, set()),
    ],
)
def test_a_model_file_claims_only_the_scores_of_its_own_weights(
    strategy: str, site: str | None, made_in: int, vouched: set[str]
) -> None:
    outcome = outcome_of(plan_of(strategy=strategy))
    header = model_header(outcome.state, results_of(outcome, transport="mTLS"), site=site)
    assert (header.site, header.round) == (site, made_in)
    assert set(header.dice) == vouched


def test_a_run_leaves_a_model_that_predicts_and_results_without_a_row_for_each_image(
    tmp_path: Path,
) -> None:
    outcome = outcome_of(plan_of())
    results = results_of(outcome, transport="mTLS")
    write_run(tmp_path, outcome, results)
    network, header = load_model(tmp_path / "model.safetensors", torch.device("cpu"))
    assert header.size == 32
    for name, tensor in network.state_dict().items():
        expected = outcome.state.best.model.weights[name]
        assert tensor.numpy().tobytes() == expected.tobytes()
    loaded = load_results(tmp_path / "results.json")
    assert (loaded.rounds, loaded.alpha) == (results.rounds, results.alpha)
    # A value that does not exist is null in the file: the quartiles over four images.
    assert (loaded.sites["a"].dice, loaded.sites["a"].dice_median) == (0.75, None)
    assert "per_image" not in json.loads((tmp_path / "results.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("model.safetensors", "report.html", "results.json", "rounds.csv"),
    ]


def test_weights_trained_in_double_precision_are_stored_in_single(tmp_path: Path) -> None:
    outcome = outcome_of(plan_of(precision="fp64"))
    write_run(tmp_path, outcome, results_of(outcome, transport="mTLS"))
    assert read_header(tmp_path / "model.safetensors").network == "unet"


def test_sites_that_train_alone_leave_no_common_model(tmp_path: Path) -> None:
    outcome = outcome_of(plan_of(strategy="local"))
    results = results_of(outcome, transport="mTLS")
    write_run(tmp_path, outcome, results)
    assert not (tmp_path / "model.safetensors").exists()
    assert (results.final_model, results.model_round) == (None, None)

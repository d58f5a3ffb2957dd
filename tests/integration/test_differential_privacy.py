"""Whole federations with differential privacy: what leaves, what is counted, and how they end."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from flwr.app import RecordDict

from fdfed.config import RunPlan
from fdfed.data import write_phantoms
from fdfed.errors import PrivacyBudgetExceeded
from fdfed.evaluation.results import RunResults
from fdfed.privacy.accounting import Release, epsilon_of
from fdfed.privacy.ledger import Ledger
from fdfed.simulation import Progress, simulate
from fdfed.training.initialise import initial_network
from fdfed.training.step import layout_of
from fdfed.wire import TrainInstruction, TrainResult
from fdfed_server.observer import Observer
from fdfed_server.run_state import load_state
from fdfed_server.terms import cross_site_terms
from tests.plans import PHASED

SITES = ("alpha", "beta")
PRIVACY: dict[str, Any] = {
    "epsilon": 50.0,
    "delta": "derived",
    "unit": "image",
    "weights": {"noise_multiplier": 2.0, "max_grad_norm": 1.0},
    "prototypes": {"noise_multiplier": 8.0, "max_norm": 4.0, "dimensions": 8},
}


def plan_of(**changes: Any) -> RunPlan:
    values: dict[str, Any] = {
        "sites": list(SITES),
        "width": 4,
        "size": 32,
        "rounds": 5,
        "steps_per_round": 2,
        "batch_size": 4,
        "min_count": 2,
        "norm": "group",
        "alpha": {"mode": "fixed"},
        "method": {"bound": "normalise"},
        "privacy": PRIVACY,
    }
    return RunPlan.model_validate(PHASED | values | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for site in SITES:
        write_phantoms(folder, site, images=20, size=32)
    return folder


def run(plan: RunPlan, data: Path, out: Path, **options: Any) -> RunResults:
    with mock.patch("fdfed.simulation.run.write_report"):
        return simulate(plan, data=data, out=out, **options)


def ledger_of(out: Path, site: str) -> Ledger:
    return Ledger(out / "state" / "privacy" / f"{site}.json")


class Wire:
    """Sees every message as a fault would, and harms none."""

    def __init__(self) -> None:
        self.replies: list[TrainResult] = []
        self.instructions: list[TrainInstruction] = []

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        read_result, read_instruction = TrainResult.from_record, TrainInstruction.from_record

        def result(record: Any) -> TrainResult:
            self.replies.append(read_result(record))
            return self.replies[-1]

        def instruction(record: Any) -> TrainInstruction:
            self.instructions.append(read_instruction(record))
            return self.instructions[-1]

        monkeypatch.setattr(TrainResult, "from_record", result)
        monkeypatch.setattr(TrainInstruction, "from_record", instruction)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Wire]:
    out, wire = tmp_path_factory.mktemp("run"), Wire()
    with pytest.MonkeyPatch.context() as patch:
        wire.watch(patch)
        run(plan_of(), data, out)
    return out, wire


def test_every_release_is_in_the_ledger_and_the_results_say_what_it_composes_to(
    finished: tuple[Path, Wire],
) -> None:
    out, _ = finished
    privacy = json.loads((out / "results.json").read_text())["privacy"]
    for site in SITES:
        spent = privacy["sites"][site]
        # Five rounds of two steps of DP-SGD; phase 1 has three, so that round 4 releases
        # prototypes, and round 5, the last, has no use for any.
        steps = Release(noise_multiplier=2.0, sample_rate=4 / spent["units"], steps=10)
        prototypes = Release(noise_multiplier=8.0, sample_rate=1.0)
        expected = epsilon_of([steps, prototypes], delta=spent["units"] ** -1.1)
        assert spent["epsilon"] == pytest.approx(expected, rel=1e-9)
        assert spent["delta"] == pytest.approx(spent["units"] ** -1.1)
        entries = ledger_of(out, site).entries()
        assert [(e.server_round, e.kind) for e in entries] == [
            (1, "weights"),
            (2, "weights"),
            (3, "weights"),
            (4, "weights"),
            (4, "prototypes"),
            (5, "weights"),
        ]
    assert privacy["differential_privacy"] is True
    assert privacy["epsilon"] == max(privacy["sites"][site]["epsilon"] for site in SITES)


def test_nothing_of_the_images_leaves_without_noise(finished: tuple[Path, Wire]) -> None:
    _, wire = finished
    assert len(wire.replies) == 10
    for reply in wire.replies:
        assert np.isnan(reply.loss_seg)
        assert np.isnan(reply.seconds)
        assert np.isnan([*reply.fd, *reply.exch, *reply.valid]).all()
        assert reply.exchange.steps == 0
        assert (reply.released is not None) == (reply.server_round == 4)


def test_the_cotangents_of_the_noisy_prototypes_come_with_the_next_round(
    finished: tuple[Path, Wire],
) -> None:
    out, wire = finished
    released = [r.released for r in wire.replies if r.released is not None]
    layout = layout_of(initial_network(plan_of())).narrowed(8)
    terms = cross_site_terms(layout, np.stack(released), np.ones((2, layout.taps), dtype=bool))
    last = [i for i in wire.instructions if i.server_round == 5]
    sent = sorted(i.cotangents.tolist() for i in last if i.cotangents is not None)
    assert sent == sorted(terms.cotangents.tolist())
    assert all(i.cotangents is None for i in wire.instructions if i.server_round < 5)
    state = load_state(out / "state" / "run")
    assert state is not None
    assert not state.model.cotangents  # of round 5, which released none
    assert [bool(r.losses["Bot"].exch) for r in state.history] == [False, False, False, True, False]


def test_the_run_ends_with_its_last_weights_whatever_they_score(
    finished: tuple[Path, Wire],
) -> None:
    results = json.loads((finished[0] / "results.json").read_text())
    assert results["model_round"] == 5
    assert results["warm_start_round"] == 3


def test_two_runs_of_one_plan_differ_because_the_noise_has_no_seed(
    data: Path, finished: tuple[Path, Wire], tmp_path: Path
) -> None:
    privacy = PRIVACY | {"prototypes": None}
    # In half precision, which comes after the noise; the second round has a residual of the first.
    plan = plan_of(rounds=2, loss="seg", privacy=privacy, update_precision="bf16")
    results = [run(plan, data, tmp_path / name) for name in "ab"]
    assert results[0].privacy.epsilon == results[1].privacy.epsilon
    for record in results[0].rounds:  # the model comes down to be trained and to be scored
        assert 4 * record.bytes.up == record.bytes.down
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert models[0] != models[1]


def test_training_stops_when_the_budget_is_spent_and_says_so_everywhere(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("fdfed_client", "fdfed_server"):
        logging.getLogger(name).propagate = True
    tight = plan_of(privacy=PRIVACY | {"epsilon": 0.6})
    with pytest.raises(PrivacyBudgetExceeded, match=r"privacy budget of (alpha|beta) is spent"):
        run(tight, data, tmp_path)
    state = load_state(tmp_path / "state" / "run")
    assert state is not None
    assert 1 <= state.completed_rounds < 5
    results = json.loads((tmp_path / "results.json").read_text())
    assert "is spent" in results["privacy"]["stopped"]
    assert len(results["rounds"]) == state.completed_rounds
    assert all(0 < s["epsilon"] <= 0.6 for s in results["privacy"]["sites"].values())
    assert PrivacyBudgetExceeded.exit_code == 6
    assert "enough for" in caplog.text
    # Started again, it stops again, and nothing more is spent.
    before = [ledger_of(tmp_path, site).entries() for site in SITES]
    with pytest.raises(PrivacyBudgetExceeded):
        run(tight, data, tmp_path)
    assert [ledger_of(tmp_path, site).entries() for site in SITES] == before


def test_a_reply_that_was_lost_is_counted_and_so_is_the_round_asked_again(
    data: Path, tmp_path: Path
) -> None:
    lost: list[int] = []
    to_record = TrainResult.to_record

    def dying(result: TrainResult) -> RecordDict:
        if result.server_round == 2 and not lost:
            lost.append(result.attempt)
            raise RuntimeError("the site dies with its answer in hand")
        return to_record(result)

    plan = plan_of(rounds=2, loss="fd", privacy=PRIVACY | {"prototypes": None})
    with (
        mock.patch.object(TrainResult, "to_record", dying),
        mock.patch("threading.excepthook"),
    ):
        run(plan, data, tmp_path)
    assert lost == [1]
    for site in SITES:
        entries = ledger_of(tmp_path, site).entries()
        # Both sites trained round 2 twice: the quorum of two was missed once.
        assert [(e.server_round, e.attempt) for e in entries] == [(1, 1), (2, 1), (2, 2)]


def test_a_site_whose_ledger_went_missing_releases_nothing_more(data: Path, tmp_path: Path) -> None:
    plan = plan_of(rounds=2, loss="fd", privacy=PRIVACY | {"prototypes": None})

    class Remover(Observer):
        def round_finished(self, record: Any) -> None:
            (tmp_path / "state" / "privacy" / "beta.json").unlink(missing_ok=True)

    with pytest.raises(PrivacyBudgetExceeded, match="beta"):
        run(plan, data, tmp_path, progress=Progress(observer=Remover()))
    state = load_state(tmp_path / "state" / "run")
    assert state is not None
    assert state.completed_rounds == 1


def test_a_damaged_ledger_stops_a_site_before_it_trains(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "state" / "privacy" / "alpha.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"format": 1, "entries": [')
    plan = plan_of(rounds=1, loss="fd", privacy=PRIVACY | {"prototypes": None})
    with pytest.raises(PrivacyBudgetExceeded, match="alpha"):
        run(plan, data, tmp_path)
    assert ledger_of(tmp_path, "beta").entries() == ()


def test_with_unprotected_weights_the_epsilon_is_of_the_prototypes_alone(
    data: Path, tmp_path: Path
) -> None:
    plan = plan_of(privacy=PRIVACY | {"weights": "unprotected"})
    results = run(plan, data, tmp_path)
    assert not results.privacy.weights_protected
    expected = epsilon_of([Release(noise_multiplier=8.0, sample_rate=1.0)], delta=14**-1.1)
    assert results.privacy.sites["alpha"].epsilon == pytest.approx(expected)
    assert {e.kind for e in ledger_of(tmp_path, "alpha").entries()} == {"prototypes"}


def test_without_the_table_no_epsilon_is_anywhere(data: Path, tmp_path: Path) -> None:
    plan = plan_of(privacy=None, rounds=2, loss="seg")
    results = run(plan, data, tmp_path)
    assert results.privacy.epsilon is None
    assert not results.privacy.differential_privacy
    assert not (tmp_path / "state" / "privacy").exists()
    assert "ε" not in (tmp_path / "rounds.csv").read_text()

"""`fdfed-server withdraw` and `release`, on the folders of a provisioned coordinator."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fdfed.audit import verify
from fdfed.cli.model import verify as verify_model
from fdfed.config import RunPlan
from fdfed.evaluation.aggregates import Aggregate
from fdfed.evaluation.model_card import PHANTOMS
from fdfed.evaluation.results import RoundRecord, SiteRound
from fdfed.files.state_format import COORDINATOR
from fdfed.files.state_lock import only_process
from fdfed.membership.plan_signature import read_plan_key
from fdfed.process.terminal import run_command
from fdfed.release import MODEL
from fdfed.training.model_file import read_header
from fdfed.wire import EvaluateResult, Prepared
from fdfed_server.cli.main import app
from fdfed_server.outputs import results_of, write_run
from fdfed_server.provision import provision
from fdfed_server.rounds import RunOutcome
from fdfed_server.run_state import load_state, save_state
from fdfed_server.strategy import Strategy

Command = Callable[..., tuple[int, str, str]]
PLAN = RunPlan(
    sites=("a", "b"), width=4, in_channels=1, size=32, rounds=2, strategy="fedavg", phantoms=True
)


@pytest.fixture
def server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs `fdfed-server` in a folder with a new consortium: code, output, errors."""
    monkeypatch.chdir(tmp_path)
    provision(["a", "b"], tmp_path / "federation")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fdfed-server", *map(str, arguments)])
        code = run_command(app)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def state_of(folder: Path) -> Path:
    return folder / "federation" / "server" / "state"


def finish(folder: Path) -> None:
    """Leaves the state and results of a run in which both sites took part."""
    state = Strategy(PLAN).initial_state("ab" * 8)
    sites = {"a": SiteRound(val_dice=0.7), "b": SiteRound(val_dice=0.6)}
    alpha = {f"tap{number}": 0.0 for number in range(9)}
    history = tuple(RoundRecord(round=n, phase=1, sites=sites, alpha=alpha) for n in (1, 2))
    state = replace(
        state,
        completed_rounds=2,
        history=history,
        best=replace(state.best, server_round=2, score=0.65),
    )
    save_state(state_of(folder) / "run", state)
    counts = {"num_train": 10, "num_validation": 3, "num_test": 4, "num_empty": 0}
    dice = Aggregate(4, 0, 0.75, 0.1, 0.7, 0.75, 0.8)
    outcome = RunOutcome(
        state=state,
        sites={name: Prepared(site=name, phantoms=True, version="1", **counts) for name in sites},
        test={
            name: EvaluateResult(run_id=state.run_id, server_round=2, part="test", dice=d, iou=d)
            for name, d in (("a", dice), ("b", None))
        },
    )
    results = results_of(outcome, transport="mTLS", sealed=True, blinded=True)
    write_run(state_of(folder) / "results", outcome, results)


def audit_kinds(folder: Path) -> list[tuple[str, str | None]]:
    log = state_of(folder) / "audit.log"
    assert verify(log).sound
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    own = ("opened", "closed")
    return [(line["kind"], line.get("decision")) for line in lines if line["kind"] not in own]


def test_a_site_that_was_removed_from_the_roster_is_withdrawn(
    server: Command, tmp_path: Path
) -> None:
    finish(tmp_path)
    code, _, err = server("withdraw", "b", "--restart", "--yes")
    assert code == 2
    assert "first `fdfed-server roster remove b`" in err
    server("roster", "remove", "b")
    code, _, err = server("withdraw", "b", "--yes")
    assert code == 2
    assert "--restart" in err
    code, _, err = server("withdraw", "b", "--restart")
    assert code == 2
    assert "nothing was changed" in err
    assert load_state(state_of(tmp_path) / "run") is not None
    code, out, err = server("withdraw", "b", "--restart", "--yes")
    assert (code, err) == (0, "")
    assert "2 round(s) will be trained again" in out
    assert "What cannot be undone:\n  - copies of the model" in out
    assert load_state(state_of(tmp_path) / "run") is None
    assert not (state_of(tmp_path) / "results").exists()
    assert audit_kinds(tmp_path) == [("withdrawal", None), ("withdrawn", None)]


def test_nothing_is_withdrawn_under_a_coordinator_that_runs(
    server: Command, tmp_path: Path
) -> None:
    finish(tmp_path)
    server("roster", "remove", "b")
    with only_process(state_of(tmp_path), form=COORDINATOR, remedy="stop it"):
        code, _, err = server("withdraw", "b", "--restart", "--yes")
    assert code == 2
    assert "another coordinator uses" in err
    assert load_state(state_of(tmp_path) / "run") is not None


def test_a_model_leaves_only_when_its_own_hash_is_approved(
    server: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path)
    out = tmp_path / "released"
    code, shown, err = server("release", "--out", out)
    assert (code, err) == (0, "")
    assert "not released" in shown
    code, _, err = server("release", "--out", out, "--approve", "00" * 32)
    assert code == 5
    assert "nothing is released" in err
    assert not out.exists()
    approved = shown.split("--approve ")[1].split()[0]
    code, shown, err = server("release", "--out", out, "--approve", approved)
    assert (code, err) == (0, "")
    key = read_plan_key(tmp_path / "federation" / "server" / "plan.key")
    public = key.public_key().public_bytes_raw().hex()
    assert public in shown
    verify_model(folder=out, key=public)
    assert approved in capsys.readouterr().out
    assert audit_kinds(tmp_path) == [("release", "refused"), ("release", "allowed")]
    code, _, err = server("release", "--out", out, "--approve", approved)
    assert code == 2
    assert "exists already" in err


def test_the_card_says_who_trained_it_how_it_scored_and_what_it_is_not(
    server: Command, tmp_path: Path
) -> None:
    finish(tmp_path)
    _, shown, _ = server("release", "--out", tmp_path / "released")
    for text in (
        PHANTOMS,
        PLAN.digest,
        "| a | 10 | 4 | 0.750 (0.100) | 0.750 (0.100) |",
        "| b | 10 | 4 | withheld | withheld |",
        "no ε is claimed",
        "not a medical device",
        "Weights of round 2 of 2",
    ):
        assert text in shown
    approved = shown.split("--approve ")[1].split()[0]
    server("release", "--out", tmp_path / "released", "--approve", approved)
    card = json.loads((tmp_path / "released" / "model-card.json").read_text())
    assert card["model"]["sha256"] == approved
    assert card["run"]["plan_digest"] == PLAN.digest
    assert card["sites"]["b"]["dice"] is None
    assert card["phantoms"] is True
    assert read_header(tmp_path / "released" / MODEL).phantoms


def test_there_is_nothing_to_release_before_a_run_has_ended(
    server: Command, tmp_path: Path
) -> None:
    state_of(tmp_path).mkdir()
    code, _, err = server("release", "--out", tmp_path / "released")
    assert code == 2
    assert "holds no results" in err

"""A site leaves a run, and nothing that it gave stays in the run's state."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.audit import AuditLog, verify
from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed.evaluation.results import RoundRecord, SiteRound
from fdfed_server.lineage import first_round, forget_from, keep_before_newcomers, state_before
from fdfed_server.run_state import Best, GlobalModel, RunState, load_state, save_state
from fdfed_server.withdrawal import Withdrawal, plan_withdrawal, withdraw
from tests.plans import PHASED

PLAN = RunPlan.model_validate(
    PHASED | {"sites": ("a", "b", "c"), "rounds": 9, "width": 2, "size": 32, "strategy": "fedavg"}
)
KEY = ed25519.Ed25519PrivateKey.generate()


def model(value: float) -> GlobalModel:
    weights = {"conv.weight": np.full((2, 2), value, dtype=np.float32)}
    return GlobalModel(weights=weights, alpha=np.zeros(1))


def train(folder: Path, *sites: str, plan: RunPlan = PLAN) -> RunState:
    """Saves the state after one round more, as the loop does; `sites` took part, `x!` refused."""
    before = load_state(folder)
    number = 1 if before is None else before.completed_rounds + 1
    took_part = {
        name.removesuffix("!"): SiteRound(refused="not finite" if name.endswith("!") else None)
        for name in sites
    }
    history = () if before is None else before.history
    state = RunState(
        plan=plan,
        run_id="ab" * 8,
        completed_rounds=number,
        model=model(number),
        best=Best(server_round=number, score=0.1 * number, model=model(number)),
        site_best=dict.fromkeys(took_part, (number, 0.5)),
        history=(*history, RoundRecord(round=number, phase=1, sites=took_part)),
    )
    keep_before_newcomers(folder, state)
    save_state(folder, state)
    return state


def leave(state: Path, site: str, *, restart: bool = False) -> Withdrawal:
    found = plan_withdrawal(state / "run", site, restart=restart)
    with AuditLog(state / "audit.log", key=KEY) as audit:
        withdraw(state, found, audit)
    return found


@pytest.mark.parametrize("joins", ["c", "c!"], ids=["folded in", "refused"])
def test_the_run_goes_back_to_the_last_round_before_the_site_had_any_part(
    tmp_path: Path, joins: str
) -> None:
    run = tmp_path / "run"
    train(run, "a", "b")
    before = train(run, "a", "b")
    train(run, "a", "b", joins)
    train(run, "a", "b", "c")
    found = leave(tmp_path, "c")
    assert (found.first_round, found.lost_rounds) == (3, 2)
    state = load_state(run)
    assert state is not None
    assert state.completed_rounds == 2
    assert state.history == before.history
    assert state.plan.sites == ("a", "b")
    np.testing.assert_array_equal(state.model.weights["conv.weight"], np.full((2, 2), 2.0))
    np.testing.assert_array_equal(state.best.model.weights["conv.weight"], np.full((2, 2), 2.0))


def test_no_file_of_the_run_holds_the_site_or_a_later_round(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, "a")
    train(run, "a", "c")
    train(run, "a", "b", "c")
    leave(tmp_path, "c")
    kept = sorted(path.relative_to(run).as_posix() for path in run.rglob("*.*") if path.is_file())
    assert kept == ["best-000001.safetensors", "round-000001.safetensors", "state.json"]
    assert '"c"' not in (run / "state.json").read_text()


def test_a_run_that_went_back_can_go_back_again_for_another_site(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, "a")
    train(run, "a", "b")
    train(run, "a", "b", "c")
    leave(tmp_path, "c")
    train(run, "a", "b", plan=replace_sites("a", "b"))
    assert leave(tmp_path, "b").lost_rounds == 2
    state = load_state(run)
    assert state is not None
    assert (state.completed_rounds, state.plan.sites) == (1, ("a",))


def replace_sites(*sites: str) -> RunPlan:
    return RunPlan.model_validate(PLAN.model_dump() | {"sites": sites})


def test_a_site_of_the_first_round_can_leave_only_with_a_restart(tmp_path: Path) -> None:
    train(tmp_path / "run", "a", "b")
    train(tmp_path / "run", "a", "b")
    with pytest.raises(InvalidInput, match=r"from round 1 on: .*--restart.*2 round"):
        leave(tmp_path, "b")
    assert load_state(tmp_path / "run") is not None
    assert leave(tmp_path, "b", restart=True).lost_rounds == 2
    assert not (tmp_path / "run").exists()


def test_a_run_without_the_kept_state_can_only_be_restarted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, "a")
    train(run, "a", "b")
    forget_from(run, 1)
    with pytest.raises(InvalidInput, match="no state before it was kept"):
        leave(tmp_path, "b")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"aggregation": "masked"}, "answers each round of masked aggregation once"),
        ({"strategy": "fedbn"}, "sites keep tensors of their newest rounds only"),
    ],
)
def test_a_run_whose_sites_would_not_follow_it_back_is_not_taken_back(
    tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    plan, run = RunPlan.model_validate(PLAN.model_dump() | changes), tmp_path / "run"
    train(run, "a", "b", plan=plan)
    train(run, "a", "b", "c", plan=plan)
    with pytest.raises(InvalidInput, match=why):
        leave(tmp_path, "c")
    leave(tmp_path, "c", restart=True)


def test_a_site_that_had_no_part_is_named_and_nothing_is_touched(tmp_path: Path) -> None:
    train(tmp_path / "run", "a")
    with pytest.raises(InvalidInput, match="b had no part in any of the run's 1 round"):
        leave(tmp_path, "b", restart=True)
    with pytest.raises(InvalidInput, match="holds no run"):
        plan_withdrawal(tmp_path / "elsewhere", "a", restart=False)
    assert load_state(tmp_path / "run") is not None


def test_results_and_the_sites_status_go_and_the_audit_log_says_so(tmp_path: Path) -> None:
    train(tmp_path / "run", "a")
    train(tmp_path / "run", "a", "b")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "model.safetensors").write_bytes(b"trained with b")
    sites: dict[str, object] = {"a": {}, "b": {"val_dice": 0.5}}
    status = {"pid": 1, "time": 0.0, "activity": "finished", "sites": sites}
    (tmp_path / "status.json").write_text(json.dumps(status))
    leave(tmp_path, "b")
    assert not (tmp_path / "results").exists()
    assert list(json.loads((tmp_path / "status.json").read_text())["sites"]) == ["a"]
    assert verify(tmp_path / "audit.log").sound
    lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    told = [(line["kind"], line["site"], line["round"]) for line in lines if "site" in line]
    assert told == [("withdrawal", "b", 1), ("withdrawn", "b", 1)]


def test_a_state_is_kept_only_before_a_round_with_a_new_site(tmp_path: Path) -> None:
    for sites in (("a",), ("a",), ("a", "b"), ("a",), ("a", "b"), ("b", "c")):
        train(tmp_path, *sites)
    kept = sorted(path.name for path in (tmp_path / "lineage").iterdir())
    assert kept == ["round-000002", "round-000005"]
    before = state_before(tmp_path, 6)
    assert before is not None
    assert first_round(before.history, "c") is None


def test_a_round_that_is_saved_again_after_a_crash_keeps_what_was_kept(tmp_path: Path) -> None:
    train(tmp_path, "a")
    state = train(tmp_path, "a", "b")
    keep_before_newcomers(tmp_path, replace(state, seconds=9.0))
    before = state_before(tmp_path, 2)
    assert before is not None
    assert before.completed_rounds == 1

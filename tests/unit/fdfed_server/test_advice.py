"""What the coordinator can tell of the sites' shift from distances alone."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed.evaluation.results import RoundRecord
from fdfed.exchange import TapLayout
from fdfed.process.terminal import run_command
from fdfed_server.advice import advise, gap
from fdfed_server.cli.main import app
from fdfed_server.pairs import PairMeans
from fdfed_server.run_state import RunState, save_state
from fdfed_server.strategy import Strategy

SITES = ("a", "b", "c")
PLAN = RunPlan(sites=SITES, width=4, in_channels=1, size=32, rounds=3)
LAYOUT = TapLayout(("Enc1",), (2,))


def state_of(vectors: list[list[float]]) -> RunState:
    """A run whose last round saw these (F, B) of two channels each, site by site."""
    means = PairMeans.empty(LAYOUT, SITES)
    means.add(range(3), np.array(vectors, dtype=float), np.ones((3, 1), dtype=bool))
    record = RoundRecord(round=2, phase=2, pairs=means.means())
    state = Strategy(PLAN).initial_state("ab" * 16)
    return replace(state, history=(record,), completed_rounds=2)


def test_the_gap_is_the_equation_worked_by_hand() -> None:
    # D_st = 8, D_ss = 1, D_tt = 3: log 8 - log 4 = log 2.
    assert gap(-math.log(8), -math.log(1), -math.log(3)) == pytest.approx(math.log(2))
    # Distances beyond what a float holds.
    assert gap(-2000.0, -2000.0, -2000.0) == pytest.approx(-math.log(2))


def test_a_shift_that_both_classes_share_ranks_the_sites() -> None:
    near, far = 0.5, 3.0
    state = state_of(
        [
            [0, 0, 1, 0],
            [0, far, 1, far],
            [0, near, 1, near],
        ]
    )
    advice = advise(state, "a")
    assert list(advice.ranking) == ["c", "b"]
    # D_ss = D_tt = 1 and <ΔF, ΔB> = 0.25: log(2.5 / 2).
    assert advice.gaps["a c"]["Enc1"] == pytest.approx(math.log(1.25), abs=1e-5)
    assert advice.forecast is None


def test_sites_without_a_shift_have_no_gap() -> None:
    advice = advise(state_of([[0, 0, 1, 0]] * 3), "b")
    assert advice.ranking == pytest.approx({"a": 0, "c": 0}, abs=1e-5)


def test_a_run_that_compared_nobody_and_a_stranger_are_told_so() -> None:
    state = state_of([[0, 0, 1, 0]] * 3)
    with pytest.raises(InvalidInput, match="no site of this run"):
        advise(state, "z")
    with pytest.raises(InvalidInput, match="no round of this run has compared sites"):
        advise(replace(state, history=()), "a")


def test_the_command_leaves_advice_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_state(tmp_path / "state" / "run", state_of([[0, 0, 1, 0], [0, 1, 1, 1], [0, 0, 1, 0]]))
    arguments = ["--base", "a", "--state", tmp_path / "state", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["fdfed-server", "advise", *map(str, arguments)])
    assert run_command(app) == 0
    document = json.loads((tmp_path / "out" / "advice.json").read_text())
    assert list(document["ranking"]) == ["c", "b"]
    assert document["forecast"] is None
    assert "Gap from a in round 2" in capsys.readouterr().out

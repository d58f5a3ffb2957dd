"""`fdfed study`: how many seeds are asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import fdfed.studies
from fdfed.cli import study
from fdfed.cli.main import app
from fdfed.process.terminal import run_command

CONFIGURATION = Path(__file__).parents[4] / "docs" / "studies" / "baselines.toml"


def run_study(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fdfed", "study", *map(str, arguments)])
    return run_command(app)


@pytest.mark.parametrize(
    ("option", "seeds"), [(("--seeds", 2), {0, 1}), ((), {0, 1, 2})], ids=["two", "all"]
)
def test_no_more_seeds_are_asked_for_than_the_option_says(
    option: tuple[object, ...], seeds: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[int] = set()

    def ask(agenda: Any, **_: object) -> bool:
        asked.update(trial.plan.seed for trial in agenda({}))
        return True

    # Training would take an hour; what is asked for is all that is looked at.
    monkeypatch.setattr(fdfed.studies, "run_agenda", ask)
    monkeypatch.setattr(study, "_check_patients", lambda *_: None)
    where = ("--data", tmp_path, "--out", tmp_path / "out", "--configuration", CONFIGURATION)
    run_study(monkeypatch, "ablation-layers", *where, *option)
    assert asked == seeds


def test_a_study_with_seeds_of_its_own_refuses_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--data", tmp_path, "--out", tmp_path / "out")
    assert run_study(monkeypatch, "privacy", *where, "--seeds", 1) != 0
    assert "has seeds of its own; leave out --seeds" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

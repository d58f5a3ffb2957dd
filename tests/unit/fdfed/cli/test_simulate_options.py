"""How `fdfed simulate` makes a plan of a file and options."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdfed.cli.simulate import _plan
from fdfed.config import preset


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "federation.toml"
    path.write_text(
        '[run]\nsites = ["a", "b"]\nrounds = 7\n[run.method]\npooling = "map"\nbound = "cap"\n'
        "[run.alpha]\nmaximum = 0.5\n"
    )
    return path


def test_the_method_of_an_option_replaces_that_of_the_file(config: Path) -> None:
    plan = _plan(config, preset("paper"))
    assert (plan.method.pooling, plan.method.bound, plan.alpha.mode) == ("sum", "none", "paper")
    assert (plan.sites, plan.rounds) == (("a", "b"), 7)


def test_without_the_option_the_file_decides(config: Path) -> None:
    plan = _plan(config, {"rounds": 9})
    assert (plan.method.bound, plan.alpha.maximum, plan.rounds) == ("cap", 0.5, 9)


def test_a_file_may_name_a_preset_and_change_a_part_of_it(config: Path) -> None:
    config.write_text('[run]\npreset = "paper"\n[run.alpha]\nrate = 0.25\n')
    plan = _plan(config, {})
    assert (plan.method.pooling, plan.alpha.mode, plan.alpha.rate) == ("sum", "paper", 0.25)

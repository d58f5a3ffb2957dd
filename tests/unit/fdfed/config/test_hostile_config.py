"""Plans and settings that were made to break their reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fdfed.config import RunPlan, read_toml
from fdfed.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"rounds": ' + "9" * 5_000 + "}", "not valid JSON"),
        ("[" * 60_000, "not valid JSON"),
        ('{"rounds": 2, "rounds": 3}', "one key twice"),
        ('{"rounds": 1' + "0" * 400 + "}", "rounds: Input should be less than"),
        ('{"width": 100000}', "width: Input should be less than"),
        ('{"exchange": {"deadline_seconds": 1e300}}', "deadline_seconds: Input should be less"),
        ('{"rounds": NaN}', "rounds: Input should be a finite number"),
    ],
    ids=["digits", "deep", "twice", "rounds", "width", "deadline", "nan"],
)
def test_a_plan_that_a_stranger_made_to_break_the_reader_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        RunPlan.from_json(text)


@pytest.mark.parametrize(
    "text", ["a = " + "9" * 5_000, "a = " + "[" * 60_000, "a = \x00", "\udcff"]
)
def test_settings_that_are_no_toml_are_refused_by_their_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InvalidInput, match=r"site\.toml is not valid TOML"):
        read_toml(path)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"sites": ["ad", "ad"]}, "names one site twice"),
        ({"sites": ["ad"], "quorum": 2}, "can never be met by 1 site"),
        ({"loss": "none"}, "none"),
        ({"strategy": "best"}, "best"),
        ({"strategy": "local", "loss": "fd+exch"}, "has no peers to exchange with"),
        ({"precision": "auto", "exchange": {"blinding": "deterministic"}}, "follows the clock"),
        ({"split": {"fold": 3, "folds": 3}}, "numbered 0 to 2"),
        ({"preset": "best"}, "the preset best is not known"),
        ({"preset": "paper", "alpha": 1}, "alpha: Input should be a valid dictionary"),
        ("paper", "valid dictionary"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused_with_the_reason(
    values: object, reason: str
) -> None:
    with pytest.raises(InvalidInput, match=reason):
        RunPlan.from_json(json.dumps(values))


def test_settings_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"site\.toml does not exist"):
        read_toml(tmp_path / "site.toml")

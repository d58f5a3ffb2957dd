"""Plans and settings that were made to break their reader."""

from __future__ import annotations

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

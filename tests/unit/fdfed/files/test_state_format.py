"""A state folder is taken forwards, a step at a time, and never backwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fdfed import __version__
from fdfed.errors import InvalidInput
from fdfed.files.state_format import AGENT, COORDINATOR, FILE, StateFormat
from fdfed.files.state_lock import only_process


def written(state: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((state / FILE).read_text())
    return document


def open_as(form: StateFormat, state: Path) -> None:
    with only_process(state, form=form, remedy="stop it"):
        pass


@pytest.mark.parametrize("form", [AGENT, COORDINATOR], ids=lambda form: form.who)
def test_every_form_before_the_present_one_has_its_upgrade(form: StateFormat) -> None:
    assert set(form.upgrades) == set(range(1, form.number))


@pytest.mark.parametrize("form", [AGENT, COORDINATOR], ids=lambda form: form.who)
def test_a_folder_of_the_time_before_the_file_is_taken_and_told_its_form(
    form: StateFormat, tmp_path: Path
) -> None:
    (tmp_path / "audit.log").write_bytes(b"as it was")
    open_as(form, tmp_path)
    assert written(tmp_path) == {"who": form.who, "format": form.number, "fdfed": __version__}
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    assert (tmp_path / "audit.log").read_bytes() == b"as it was"


def test_a_folder_of_a_newer_version_is_refused_with_what_to_do_and_left_alone(
    tmp_path: Path,
) -> None:
    text = json.dumps({"who": "agent", "format": AGENT.number + 1, "fdfed": "9.0.0"})
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InvalidInput, match=r"fdfed 9\.0\.0 .*Install that version.*backup"):
        open_as(AGENT, tmp_path)
    assert (tmp_path / FILE).read_text() == text


def test_the_other_sides_folder_is_refused(tmp_path: Path) -> None:
    open_as(COORDINATOR, tmp_path)
    with pytest.raises(InvalidInput, match="state folder of a coordinator, not of an agent"):
        open_as(AGENT, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"who":"agent","format":"1"}',
        b'{"who":"agent","format":true}',
        b'{"who":"agent","format":0}',
        b'{"who":"agent","format":1,"format":2}',
    ],
)
def test_a_file_that_says_no_form_is_refused_and_not_guessed_at(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(InvalidInput, match="does not say in which format"):
        open_as(AGENT, tmp_path)


class PowerCut(BaseException):
    """Ends a step in the middle."""


def test_a_rehearsed_upgrade_takes_every_step_once_and_goes_on_where_it_was_cut_off(
    tmp_path: Path,
) -> None:
    """Two forms that are made up: the rounds move to a folder of their own, then are renamed."""
    (tmp_path / "round-1").write_text("weights")
    cuts = ["cut"]

    def to_2(state: Path) -> None:
        (state / "rounds").mkdir(exist_ok=True)
        for path in state.glob("round-*"):
            path.rename(state / "rounds" / path.name)

    def to_3(state: Path) -> None:
        for path in (state / "rounds").glob("round-*"):
            path.rename(path.with_name(path.name.replace("round-", "")))
        if cuts:
            cuts.pop()
            raise PowerCut

    later = StateFormat("agent", 3, {1: to_2, 2: to_3})
    open_as(AGENT, tmp_path)
    with pytest.raises(PowerCut):
        open_as(later, tmp_path)
    # The first step is done and noted; the second is begun, and will be taken again.
    assert written(tmp_path)["format"] == 2
    with pytest.raises(InvalidInput, match="never taken backwards"):
        open_as(AGENT, tmp_path)
    open_as(later, tmp_path)
    assert written(tmp_path)["format"] == 3
    assert (tmp_path / "rounds" / "1").read_text() == "weights"
    open_as(later, tmp_path)

"""The status file, and the command that shows it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput, QuorumNotMet
from fdfed.evaluation.results import RoundRecord, SiteRound
from fdfed.process.terminal import run_command
from fdfed.wire import Prepared
from fdfed_server import status
from fdfed_server.cli.main import app
from fdfed_server.status import FILE, StatusWriter, read_status

PLAN = RunPlan(sites=("tnbc", "monuseg"), rounds=4, phantoms=True)


def prepared(site: str) -> Prepared:
    return Prepared(
        site=site,
        num_train=35,
        num_validation=5,
        num_test=10,
        num_empty=0,
        phantoms=True,
        version="1",
    )


def play(writer: StatusWriter) -> None:
    """Two rounds, in the second of which a site is refused."""
    writer.run_started(PLAN, 0)
    for site in PLAN.sites:
        writer.site_prepared(prepared(site))
    for number, refused in ((1, None), (2, "node [/gone]")):
        writer.round_started(number, 1, 1)
        writer.site_answered("tnbc", number, "")
        writer.site_answered("monuseg", number, refused or "")
        sites = {
            "tnbc": SiteRound(val_dice=0.8),
            "monuseg": SiteRound(val_dice=0.6, refused=refused),
        }
        writer.round_finished(RoundRecord(round=number, phase=1, sites=sites))


def test_the_file_says_what_the_coordinator_and_each_site_do(tmp_path: Path) -> None:
    with StatusWriter(tmp_path, lambda: ["tnbc"]) as writer:
        play(writer)
        found = read_status(tmp_path)
    assert found.fresh
    assert not found.ended
    assert (found.activity, found.completed_rounds, found.rounds) == ("training round 2", 2, 4)
    assert (found.strategy, found.phantoms) == ("fdfed", True)
    assert found.mean_val_dice == pytest.approx(0.7)
    tnbc, monuseg = found.sites["tnbc"], found.sites["monuseg"]
    assert (tnbc.online, tnbc.num_train, tnbc.last_round, tnbc.note) == (True, 35, 2, "")
    assert (monuseg.online, monuseg.last_round, monuseg.note) == (False, 1, "node [/gone]")
    assert monuseg.val_dice == 0.6


def test_a_second_attempt_and_missing_sites_are_named(tmp_path: Path) -> None:
    with StatusWriter(tmp_path, list) as writer:
        writer.run_started(PLAN, 0)
        writer.round_started(1, 1, 2)
        assert read_status(tmp_path).activity == "training round 1, attempt 2"
        writer.waiting_for(("monuseg",))
        assert read_status(tmp_path).activity == "waiting for monuseg"


@pytest.mark.parametrize(
    ("error", "activity"),
    [
        (None, "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (QuorumNotMet("x"), "failed: QuorumNotMet"),
    ],
)
def test_how_a_run_ended_is_kept(
    tmp_path: Path, error: BaseException | None, activity: str
) -> None:
    def scope() -> None:
        with StatusWriter(tmp_path, list) as writer:
            play(writer)
            if error is not None:
                raise error

    if error is None:
        scope()
    else:
        with pytest.raises(type(error)):
            scope()
    found = read_status(tmp_path)
    assert found.activity == activity
    assert found.ended
    assert not found.fresh


def test_a_finished_run_stays_finished(tmp_path: Path) -> None:
    with StatusWriter(tmp_path, list) as writer:
        play(writer)
        writer.test_finished({})
    assert read_status(tmp_path).activity == "finished"


def test_the_file_is_written_anew_while_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "_BEAT_SECONDS", 0.01)
    with StatusWriter(tmp_path, list):
        before = read_status(tmp_path).time
        deadline = time.monotonic() + 5
        while read_status(tmp_path).time == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_disk_that_is_full_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with StatusWriter(tmp_path, list) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(status, "write_text", full)
            play(writer)
        assert "the status cannot be written" in caplog.text
        writer.round_started(3, 1, 1)
        assert read_status(tmp_path).completed_rounds == 2


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"pid": "x"}', b"\xff"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(InvalidInput, match="is damaged"):
        read_status(tmp_path)


def test_a_folder_without_a_run_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no coordinator has run there"):
        read_status(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="no coordinator has run there"):
        read_status(tmp_path / "file")


# --- the command


@pytest.fixture
def show(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Path], tuple[int, str, str]]:
    def call(state: Path) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "160")
        monkeypatch.setattr(sys, "argv", ["fdfed-server", "status", "--state", str(state)])
        code = run_command(app)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_running_coordinator_is_shown_with_its_sites(
    tmp_path: Path, show: Callable[[Path], tuple[int, str, str]]
) -> None:
    with StatusWriter(tmp_path, lambda: ["tnbc"]) as writer:
        play(writer)
        code, out, err = show(tmp_path)
    assert (code, err) == (0, "")
    assert "training round 2" in out
    assert "round 2 of 4 complete, phase 1, strategy fdfed on phantoms" in out
    assert "node [/gone]" in out
    assert "0.800" in out


def test_a_coordinator_that_died_is_told_from_one_that_ended(
    tmp_path: Path, show: Callable[[Path], tuple[int, str, str]]
) -> None:
    with StatusWriter(tmp_path, list) as writer:
        play(writer)
        left = (tmp_path / FILE).read_bytes()
    code, out, err = show(tmp_path)
    assert (code, err) == (0, "")
    assert "not running (last: stopped)" in out
    # Killed: the file is what it was, and grows old.
    (tmp_path / FILE).write_text(json.dumps(json.loads(left) | {"time": time.time() - 60}))
    code, out, err = show(tmp_path)
    assert code == 4
    assert "not running (last: training round 2)" in out
    assert err.startswith("error: the coordinator of")


def test_a_folder_without_a_run_exits_with_2(
    tmp_path: Path, show: Callable[[Path], tuple[int, str, str]]
) -> None:
    code, out, err = show(tmp_path)
    assert (code, out) == (2, "")
    assert "fdfed-server start" in err


def test_what_must_be_renewed_soon_stands_in_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notice = "the certificate of tnbc expires on 2030-01-01, in 9 day(s)"
    with StatusWriter(tmp_path, lambda: [], notices=lambda: (notice,)):
        assert read_status(tmp_path).notices == (notice,)
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr(sys, "argv", ["fdfed-server", "status", "--state", str(tmp_path)])
        assert run_command(app) == 0
    assert notice in capsys.readouterr().out

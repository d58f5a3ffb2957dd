"""The site's chained record of what left and what came in."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fdfed.config import RunPlan
from fdfed.exchange import ExchangeStats
from fdfed.training.local_round import ExchangeIncomplete
from fdfed.wire import Prepare, Prepared, TrainInstruction, footprint
from fdfed_client import audit
from fdfed_client.app import build_client_app
from fdfed_client.audit import FIRST, AuditLog
from fdfed_server.flower import set_task_identity


def broken_at(path: Path) -> list[int]:
    """Numbers of the lines that do not name the hash of the line before them."""
    previous, broken = FIRST, []
    for number, line in enumerate(path.read_bytes().splitlines()):
        try:
            named = json.loads(line).get("previous")
        except ValueError:
            named = None
        if named != previous:
            broken.append(number)
        previous = hashlib.sha256(line).hexdigest()
    return broken


def filled(path: Path, lines: int = 5) -> Path:
    log = AuditLog(path)
    for number in range(lines):
        log.append("out", "train", bytes=number, sha256="0" * 64)
    return path


def test_every_line_names_the_hash_of_the_one_before_it(tmp_path: Path) -> None:
    path = filled(tmp_path / "audit.log")
    assert broken_at(path) == []
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["bytes"] for entry in entries] == [0, 1, 2, 3, 4]
    assert set(entries[0]) == {"time", "direction", "kind", "bytes", "sha256", "previous"}
    assert entries[0]["previous"] == FIRST


def test_a_log_that_is_opened_again_goes_on_with_the_chain(tmp_path: Path) -> None:
    for _ in range(3):
        filled(tmp_path / "audit.log", lines=2)
    assert len((tmp_path / "audit.log").read_text().splitlines()) == 6
    assert broken_at(tmp_path / "audit.log") == []


@pytest.mark.parametrize("length", [1, 4094, 4095, 4096, 4097, 9000])
def test_a_line_of_any_length_is_found_when_the_log_is_opened_again(
    tmp_path: Path, length: int
) -> None:
    path = tmp_path / "audit.log"
    for _ in range(3):
        AuditLog(path).append("in", "x" * length)
    assert broken_at(path) == []


def edited(lines: list[bytes]) -> list[bytes]:
    return [*lines[:1], lines[1].replace(b'"bytes":1', b'"bytes":9'), *lines[2:]]


@pytest.mark.parametrize(
    ("tamper", "found_at"),
    [
        pytest.param(edited, [2], id="edited"),
        pytest.param(lambda ls: [*ls[:1], *ls[2:]], [1], id="removed"),
        pytest.param(lambda ls: [ls[0], ls[2], ls[1], *ls[3:]], [1, 2, 3], id="reordered"),
        pytest.param(lambda ls: ls[1:], [0], id="the first removed"),
        pytest.param(lambda ls: [*ls[:2], ls[1], *ls[2:]], [2], id="repeated"),
    ],
)
def test_a_line_that_was_tampered_with_breaks_the_chain_there(
    tmp_path: Path, tamper: Callable[[list[bytes]], list[bytes]], found_at: list[int]
) -> None:
    path = filled(tmp_path / "audit.log")
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join(tamper(lines)) + b"\n")
    assert broken_at(path) == found_at


def test_the_log_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = filled(tmp_path / "state" / "audit.log")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_line_that_a_crash_cut_off_stays_and_the_chain_goes_on_over_it(tmp_path: Path) -> None:
    path = filled(tmp_path / "audit.log", lines=2)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"time":"2026')
    filled(path, lines=2)
    lines = path.read_bytes().splitlines()
    assert lines[2] == b'{"time":"2026'
    assert len(lines) == 5
    # Only the cut line itself says nothing of the one before it.
    assert broken_at(path) == [2]


def test_a_line_that_could_not_be_written_whole_does_not_spoil_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.log"
    log = AuditLog(path)
    log.append("out", "train")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(audit.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            log.append("out", "evaluate")
    log.append("out", "train")
    assert broken_at(path) == []


def test_lines_that_another_process_wrote_are_chained_to(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    one, other = AuditLog(path), AuditLog(path)
    for _ in range(3):
        one.append("out", "train")
        other.append("in", "train")
    assert broken_at(path) == []


def test_lines_of_several_threads_are_whole_and_chained(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: log.append("out", "train", bytes=number), range(64)))
    assert broken_at(tmp_path / "audit.log") == []
    entries = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert sorted(entry["bytes"] for entry in entries) == list(range(64))


# --- what the agent's app writes into it


class FakeSite:
    """Answers as told; `exchanged` is what its last round sent to the hub."""

    exchanged = ExchangeStats()

    def __init__(self, *, train: Callable[[FakeSite], Any] | None = None) -> None:
        self._train = train

    def prepare(self, message: Prepare) -> Prepared:
        return Prepared(
            site="a",
            num_train=1,
            num_validation=1,
            num_test=1,
            num_empty=0,
            phantoms=False,
            version="1",
        )

    def train(self, message: TrainInstruction) -> Any:
        assert self._train is not None
        return self._train(self)


def call(site: Any, log: AuditLog, kind: str, record: RecordDict) -> Message:
    set_task_identity(task_id=1, run_id=1, node_id=1)
    message = Message(record, dst_node_id=7, message_type=kind)
    context = Context(run_id=1, node_id=7, node_config={}, state=RecordDict(), run_config={})
    return build_client_app(site, audit=log)(message=message, context=context)


def entries_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


PREPARE = Prepare(plan=RunPlan(sites=("a",)), run_id="ab" * 8)


def test_every_record_in_and_out_is_a_line_with_its_size_and_digest(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    record = PREPARE.to_record()
    reply = call(FakeSite(), AuditLog(path), "query.prepare", record)
    came, left = entries_of(path)
    assert (came["direction"], came["kind"]) == ("in", "prepare")
    assert (left["direction"], left["kind"]) == ("out", "prepare")
    assert (came["bytes"], came["sha256"]) == footprint(record)
    assert (left["bytes"], left["sha256"]) == footprint(reply.content)


def test_what_could_not_be_read_is_a_line_too(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with pytest.raises(Exception, match="without its 'fdfed' part"):
        call(FakeSite(), AuditLog(path), "query.prepare", RecordDict({"x": ConfigRecord()}))
    assert [(e["direction"], e["kind"]) for e in entries_of(path)] == [("in", "prepare")]


def test_prototypes_that_left_in_a_round_that_failed_are_in_the_log(tmp_path: Path) -> None:
    def fail(site: FakeSite) -> None:
        site.exchanged = ExchangeStats(steps=7, answered=5, dropped=2, bytes_up=70, bytes_down=50)
        raise ExchangeIncomplete("a step got no cross-site term")

    path = tmp_path / "audit.log"
    record = TrainInstruction(
        plan=PREPARE.plan,
        run_id="ab" * 8,
        server_round=3,
        attempt=2,
        phase=1,
        total_examples=1,
        best_round=0,
        alpha=np.zeros(9),
        target=None,
        weights={},
    ).to_record()
    with pytest.raises(ExchangeIncomplete):
        call(FakeSite(train=fail), AuditLog(path), "train", record)
    came, left, back = entries_of(path)
    assert came["kind"] == "train"
    assert (left["direction"], left["kind"], left["frames"], left["bytes"]) == (
        *("out", "prototypes", 7, 70),
    )
    assert (back["direction"], back["kind"], back["frames"], back["bytes"]) == (
        *("in", "cotangents", 5, 50),
    )
    assert (left["server_round"], left["attempt"]) == (3, 2)

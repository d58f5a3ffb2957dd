"""What the agent's app writes into its audit log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fdfed.audit import AuditLog, verify
from fdfed.config import RunPlan
from fdfed.exchange import ExchangeStats
from fdfed.training.local_round import ExchangeIncomplete
from fdfed.wire import Prepare, Prepared, TrainInstruction, footprint
from fdfed_client.app import build_client_app
from fdfed_server.flower import set_task_identity


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


KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    with AuditLog(tmp_path / "audit.log", key=KEY) as opened:
        yield opened
    assert verify(tmp_path).sound


def entries_of(folder: Path) -> list[dict[str, Any]]:
    """All lines after the one of the opening."""
    lines = (folder / "audit.log").read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


PREPARE = Prepare(plan=RunPlan(sites=("a",)), run_id="ab" * 8)
TRAIN = TrainInstruction(
    plan=PREPARE.plan,
    run_id="ab" * 8,
    server_round=3,
    attempt=2,
    phase=2,
    total_examples=1,
    best_round=0,
    alpha=np.zeros(9),
    target=None,
    weights={},
)


def test_every_record_in_and_out_is_a_line_with_its_size_and_digest(
    tmp_path: Path, log: AuditLog
) -> None:
    record = PREPARE.to_record()
    reply = call(FakeSite(), log, "query.prepare", record)
    came, left = entries_of(tmp_path)
    assert (came["direction"], came["kind"]) == ("in", "prepare")
    assert (left["direction"], left["kind"]) == ("out", "prepare")
    assert (came["bytes"], came["sha256"]) == footprint(record)
    assert (left["bytes"], left["sha256"]) == footprint(reply.content)
    assert (came["run"], left["run"]) == ("ab" * 8, "ab" * 8)


def test_what_could_not_be_read_is_a_line_too(tmp_path: Path, log: AuditLog) -> None:
    with pytest.raises(Exception, match="without its 'fdfed' part"):
        call(FakeSite(), log, "query.prepare", RecordDict({"x": ConfigRecord()}))
    (line,) = entries_of(tmp_path)
    assert (line["direction"], line["kind"], line["decision"]) == ("in", "prepare", "refused")


def test_prototypes_that_left_in_a_round_that_failed_are_in_the_log(
    tmp_path: Path, log: AuditLog
) -> None:
    before: list[dict[str, Any]] = []

    def fail(site: FakeSite) -> None:
        before.extend(entries_of(tmp_path))
        site.exchanged = ExchangeStats(steps=7, answered=5, dropped=2, bytes_up=70, bytes_down=50)
        raise ExchangeIncomplete("a step got no cross-site term")

    with pytest.raises(ExchangeIncomplete):
        call(FakeSite(train=fail), log, "train", TRAIN.to_record())
    came, begun, left, back = entries_of(tmp_path)
    # On disk before the first frame could leave: an agent that is killed has said so.
    assert before == [came, begun]
    assert (begun["kind"], begun["state"], begun["frames"]) == ("prototypes", "begun", 10)
    assert (left["kind"], left["state"], left["frames"], left["bytes"]) == (
        *("prototypes", "ended", 7, 70),
    )
    assert (back["direction"], back["kind"], back["frames"], back["bytes"]) == (
        *("in", "cotangents", 5, 50),
    )
    assert {(line["run"], line["round"], line["attempt"]) for line in (begun, left, back)} == {
        ("ab" * 8, 3, 2)
    }

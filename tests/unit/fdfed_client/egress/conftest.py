"""A gate with its audit log, and one sample of each reply that a site can make."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from flwr.app import Message, RecordDict

from fdfed.audit import AuditLog, verify
from fdfed.evaluation.aggregates import Aggregate
from fdfed.exchange import ExchangeStats
from fdfed.wire import (
    EvaluateResult,
    MaskedResult,
    Prepared,
    Ready,
    RosterInForce,
    SecretOffer,
    TrainResult,
)
from fdfed_client.egress import REPLIES, EgressGate, Policy
from fdfed_server.flower import set_task_identity

SITE, RUN = "tnbc", "ab" * 16
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SCORE = Aggregate(12, 0, 0.8, 0.1, 0.7, 0.8, 0.9)
TAPS = np.linspace(0, 1, 9)

SAMPLES: dict[str, Any] = {
    "prepared": Prepared(
        site=SITE,
        num_train=30,
        num_validation=4,
        num_test=8,
        num_empty=0,
        phantoms=False,
        version="0.1.0",
    ),
    "in-force": RosterInForce(version=2, digest="cd" * 32),
    "offered": SecretOffer(epoch=17, text="sealed"),
    "is-ready": Ready(announcement="{}"),
    "masked": MaskedResult(
        run_id=RUN,
        server_round=3,
        attempt=1,
        seconds=2.5,
        exchange=ExchangeStats(steps=2, answered=2, peers_mean=1.0, bytes_up=70, bytes_down=50),
        values=np.arange(9, dtype=np.uint64),
    ),
    "trained": TrainResult(
        run_id=RUN,
        server_round=3,
        attempt=1,
        num_examples=30,
        loss_seg=0.4,
        seconds=2.5,
        alpha=TAPS,
        fd=TAPS * np.nan,
        exch=TAPS,
        valid=TAPS,
        exchange=ExchangeStats(steps=2, answered=2, peers_mean=1.0, bytes_up=70, bytes_down=50),
        weights={"w": np.ones((3, 2), np.float32), "n": np.array(5)},
    ),
    "evaluated": EvaluateResult(
        run_id=RUN, server_round=3, part="validation", dice=SCORE, iou=SCORE
    ),
}


def reply_of(record: RecordDict, kind: str = "trained", *, asked: str | None = None) -> Message:
    """The record as the reply to a message that a coordinator sent."""
    form = asked or REPLIES[kind].answers
    return Message(record, reply_to=Message(RecordDict(), dst_node_id=7, message_type=form))


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The audit log after the line of its opening."""
    lines = (folder / "audit.log").read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


MakeGate = Callable[..., EgressGate]


@pytest.fixture(autouse=True)
def _identity() -> None:
    """Flower makes no message without one."""
    set_task_identity(task_id=1, run_id=1, node_id=1)


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[AuditLog]:
    with AuditLog(tmp_path / "audit.log", key=KEY) as opened:
        yield opened
    assert verify(tmp_path).sound


@pytest.fixture
def make_gate(audit: AuditLog) -> MakeGate:
    def make(*, min_count: int = 3, **rules: Any) -> EgressGate:
        return EgressGate(SITE, Policy(**rules), min_count=min_count, audit=audit)

    return make

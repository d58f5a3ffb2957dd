"""A grid whose nodes come, go and answer as a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fdfed.config import RunPlan
from fdfed.evaluation.aggregates import Aggregate
from fdfed.wire import (
    EvaluateInstruction,
    EvaluateResult,
    Prepare,
    Prepared,
    TrainInstruction,
    TrainResult,
)
from fdfed_server.flower import empty_run, node_info, set_task_identity
from fdfed_server.observer import Observer
from tests.plans import PHASED

TAPS = 9
Answer = Callable[[str, RecordDict], RecordDict | Error | None]


def plan_of(**changes: object) -> RunPlan:
    values: dict[str, object] = {
        "sites": ["a", "b"],
        "width": 4,
        "in_channels": 1,
        "size": 32,
        "rounds": 2,
        "strategy": "fedavg",
    }
    return RunPlan.model_validate(PHASED | values | changes)


def prepared(site: str) -> Prepared:
    return Prepared(
        site=site,
        num_train=10,
        num_validation=3,
        num_test=4,
        num_empty=0,
        phantoms=False,
        version="1",
    )


def good(site: str, kind: str, record: RecordDict) -> RecordDict:
    """What a site without images would answer: the weights it was sent."""
    if kind == "query.prepare":
        Prepare.from_record(record)
        return prepared(site).to_record()
    if kind == "evaluate":
        asked = EvaluateInstruction.from_record(record)
        scores = Aggregate(3, 0, 0.5, 0.1, np.nan, np.nan, np.nan)
        return EvaluateResult(
            run_id=asked.run_id,
            server_round=asked.server_round,
            part=asked.part,
            dice=scores,
            iou=scores,
        ).to_record()
    message = TrainInstruction.from_record(record)
    return TrainResult(
        run_id=message.run_id,
        server_round=message.server_round,
        attempt=message.attempt,
        num_examples=10,
        loss_seg=0.5,
        seconds=0.1,
        alpha=message.alpha,
        fd=np.full(TAPS, np.nan),
        exch=np.full(TAPS, np.nan),
        valid=np.zeros(TAPS),
        weights=dict(message.weights),
    ).to_record()


@dataclass
class ScriptedGrid(Grid):
    """Answers at once, unless `answers` says otherwise for a site and kind."""

    online: list[str]
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    on_look: Callable[[ScriptedGrid], None] | None = None
    """Called whenever the loop looks who is there."""
    sent: list[tuple[str, str]] = field(default_factory=list)
    _replies: dict[str, Message] = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_task_identity(task_id=1, run_id=1, node_id=1)

    def set_run(self, run: Run) -> None: ...

    @property
    def run(self) -> Run:
        return empty_run()

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        # The loop makes its messages itself; a test in which it asks for this must fail.
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return [node.node_id for node in self.get_nodes()]

    def get_nodes(self) -> list[NodeInfo]:
        if self.on_look is not None:
            self.on_look(self)
        return [node_info(ord(site), site) for site in self.online]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            site, kind = chr(message.metadata.dst_node_id), message.metadata.message_type
            self.sent.append((site, kind))
            key = str(len(self.sent))
            ids.append(key)
            special = self.answers.get((site, kind))
            content = (
                special(site, message.content)
                if special is not None
                else good(site, kind, message.content)
            )
            if content is not None:
                message.metadata.__dict__["_message_id"] = key
                self._replies[key] = Message(content, reply_to=message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def send_and_receive(self, messages: Iterable[Message], **_: Any) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))


class Told(Observer):
    """What the loop told, as a list of words."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def run_started(self, plan: RunPlan, completed_rounds: int) -> None:
        self.events.append(f"run after {completed_rounds}")

    def waiting_for(self, sites: Sequence[str]) -> None:
        self.events.append(f"waiting for {','.join(sites)}")

    def site_prepared(self, prepared: Prepared) -> None:
        self.events.append(f"prepared {prepared.site}")

    def round_started(self, server_round: int, phase: int, attempt: int) -> None:
        self.events.append(f"round {server_round}.{attempt}")

    def site_answered(self, site: str, server_round: int, failure: str) -> None:
        self.events.append(f"{site} {server_round}" + (f": {failure}" if failure else ""))

    def attempt_failed(self, server_round: int, attempt: int, reason: str) -> None:
        self.events.append(f"failed {server_round}.{attempt}")

    def round_finished(self, record: Any) -> None:
        self.events.append(f"finished {record.round}")

    def test_finished(self, results: Any) -> None:
        self.events.append(f"tested {','.join(results)}")

"""The site as a Flower `ClientApp`: three handlers, one for each kind of message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fdfed.audit import AuditLog
from fdfed.errors import WireError
from fdfed.wire import (
    EvaluateInstruction,
    Prepare,
    RosterRelay,
    SecretRequest,
    TrainInstruction,
    footprint,
)
from fdfed_client.site import Site

Asked = TypeVar("Asked")


def build_client_app(site: Site, *, audit: AuditLog | None = None) -> ClientApp:
    """An app whose handlers decode the record, ask the site, and encode its answer.

    Args:
        audit: gets a line for every record in and out, and two a round for the exchange: before its
            first frame leaves, and when it is over.
    """
    # No annotation: Flower looks for a plain assignment.
    app = ClientApp()

    def answer(
        kind: str,
        message: Message,
        decode: Callable[[RecordDict], Asked],
        handle: Callable[[Asked], RecordDict],
    ) -> Message:
        asked = _taken(audit, kind, message.content, decode)
        record = handle(asked)
        _note(audit, "out", kind, record, asked)
        return Message(record, reply_to=message)

    @app.query("prepare")
    def prepare(message: Message, _: Context) -> Message:
        return answer(
            "prepare", message, Prepare.from_record, lambda asked: site.prepare(asked).to_record()
        )

    @app.query("secret")
    def secret(message: Message, _: Context) -> Message:
        return answer(
            "secret",
            message,
            SecretRequest.from_record,
            lambda asked: site.offer(asked).to_record(),
        )

    @app.query("roster")
    def roster(message: Message, _: Context) -> Message:
        return answer(
            "roster",
            message,
            RosterRelay.from_record,
            lambda asked: site.take_roster(asked).to_record(),
        )

    @app.train()
    def train(message: Message, _: Context) -> Message:
        return answer("train", message, TrainInstruction.from_record, train_record)

    def train_record(instruction: TrainInstruction) -> RecordDict:
        exchanges = instruction.plan.effective_loss == "fd+exch" and instruction.phase == 2
        if audit is not None and exchanges:
            # Before the first frame leaves: a killed agent cannot say any more that some had left.
            frames = instruction.plan.steps_per_round
            audit.append("out", "prototypes", state="begun", frames=frames, **_step(instruction))
        try:
            return site.train(instruction).to_record()
        finally:
            # Also when the round failed: what had left by then has left.
            if audit is not None and exchanges:
                _note_exchange(audit, instruction, site)

    @app.evaluate()
    def evaluate(message: Message, _: Context) -> Message:
        return answer(
            "evaluate",
            message,
            EvaluateInstruction.from_record,
            lambda asked: site.evaluate(asked).to_record(),
        )

    return app


def _taken(
    audit: AuditLog | None,
    kind: str,
    record: RecordDict,
    decode: Callable[[RecordDict], Asked],
) -> Asked:
    try:
        asked = decode(record)
    except WireError:
        _note(audit, "in", kind, record, None, decision="refused")
        raise
    _note(audit, "in", kind, record, asked)
    return asked


def _note(
    audit: AuditLog | None,
    direction: Any,
    kind: str,
    record: RecordDict,
    asked: object,
    *,
    decision: str = "allowed",
) -> None:
    if audit is not None:
        size, digest = footprint(record)
        audit.append(direction, kind, decision=decision, bytes=size, sha256=digest, **_step(asked))


def _note_exchange(audit: AuditLog, instruction: TrainInstruction, site: Site) -> None:
    stats, step = site.exchanged, _step(instruction)
    audit.append(
        "out", "prototypes", state="ended", frames=stats.steps, bytes=stats.bytes_up, **step
    )
    audit.append("in", "cotangents", frames=stats.answered, bytes=stats.bytes_down, **step)


def _step(asked: object) -> dict[str, Any]:
    """Run, round and attempt of a message, as far as it has them."""
    names = {"run_id": "run", "server_round": "round", "attempt": "attempt"}
    return {short: getattr(asked, name, None) for name, short in names.items()}

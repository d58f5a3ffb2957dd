"""The site as a Flower `ClientApp`: three handlers, one for each kind of message."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fdfed.exchange import ExchangeStats
from fdfed.wire import EvaluateInstruction, Prepare, SecretRequest, TrainInstruction, footprint
from fdfed_client.audit import AuditLog, Direction
from fdfed_client.site import Site


def build_client_app(site: Site, *, audit: AuditLog | None = None) -> ClientApp:
    """An app whose handlers decode the record, ask the site, and encode its answer.

    Args:
        audit: gets a line for every record in and out, and one a round for the exchange.
    """
    # No annotation: Flower looks for a plain assignment.
    app = ClientApp()

    def answer(kind: str, message: Message, handle: Callable[[RecordDict], RecordDict]) -> Message:
        _note(audit, "in", kind, message.content)
        record = handle(message.content)
        _note(audit, "out", kind, record)
        return Message(record, reply_to=message)

    @app.query("prepare")
    def prepare(message: Message, _: Context) -> Message:
        return answer(
            "prepare", message, lambda r: site.prepare(Prepare.from_record(r)).to_record()
        )

    @app.query("secret")
    def secret(message: Message, _: Context) -> Message:
        return answer(
            "secret", message, lambda r: site.offer(SecretRequest.from_record(r)).to_record()
        )

    @app.train()
    def train(message: Message, _: Context) -> Message:
        return answer("train", message, train_record)

    def train_record(record: RecordDict) -> RecordDict:
        instruction = TrainInstruction.from_record(record)
        try:
            return site.train(instruction).to_record()
        finally:
            # Also when the round failed: what had left by then has left.
            _note_exchange(audit, instruction, site.exchanged)

    @app.evaluate()
    def evaluate(message: Message, _: Context) -> Message:
        return answer(
            "evaluate",
            message,
            lambda r: site.evaluate(EvaluateInstruction.from_record(r)).to_record(),
        )

    return app


def _note(audit: AuditLog | None, direction: Direction, kind: str, record: RecordDict) -> None:
    if audit is not None:
        size, digest = footprint(record)
        audit.append(direction, kind, bytes=size, sha256=digest)


def _note_exchange(
    audit: AuditLog | None, instruction: TrainInstruction, stats: ExchangeStats
) -> None:
    if audit is None or not stats.steps:
        return
    step = {"server_round": instruction.server_round, "attempt": instruction.attempt}
    audit.append("out", "prototypes", **step, frames=stats.steps, bytes=stats.bytes_up)
    audit.append("in", "cotangents", **step, frames=stats.answered, bytes=stats.bytes_down)

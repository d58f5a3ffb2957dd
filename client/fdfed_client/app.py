"""The site as a Flower `ClientApp`: three handlers, one for each kind of message."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fdfed.wire import EvaluateInstruction, Prepare, TrainInstruction, footprint
from fdfed_client.audit import AuditLog
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

    @app.train()
    def train(message: Message, _: Context) -> Message:
        return answer("train", message, train_record)

    def train_record(record: RecordDict) -> RecordDict:
        result = site.train(TrainInstruction.from_record(record))
        if audit is not None and result.exchange.steps:
            audit.append(
                "out",
                "prototypes",
                server_round=result.server_round,
                frames=result.exchange.steps,
                bytes=result.exchange.bytes_up,
            )
            audit.append(
                "in",
                "cotangents",
                server_round=result.server_round,
                frames=result.exchange.answered,
                bytes=result.exchange.bytes_down,
            )
        return result.to_record()

    @app.evaluate()
    def evaluate(message: Message, _: Context) -> Message:
        return answer(
            "evaluate",
            message,
            lambda r: site.evaluate(EvaluateInstruction.from_record(r)).to_record(),
        )

    return app


def _note(audit: AuditLog | None, direction: str, kind: str, record: RecordDict) -> None:
    if audit is not None:
        size, digest = footprint(record)
        audit.append("in" if direction == "in" else "out", kind, bytes=size, sha256=digest)

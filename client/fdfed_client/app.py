"""The site as a Flower `ClientApp`: three handlers, one for each kind of message."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fdfed.wire import EvaluateInstruction, Prepare, TrainInstruction
from fdfed_client.site import Site


def build_client_app(site: Site) -> ClientApp:
    """An app whose handlers decode the record, ask the site, and encode its answer."""
    app = ClientApp()

    @app.query("prepare")
    def prepare(message: Message, _: Context) -> Message:
        answer = site.prepare(Prepare.from_record(message.content))
        return Message(answer.to_record(), reply_to=message)

    @app.train()
    def train(message: Message, _: Context) -> Message:
        answer = site.train(TrainInstruction.from_record(message.content))
        return Message(answer.to_record(), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, _: Context) -> Message:
        answer = site.evaluate(EvaluateInstruction.from_record(message.content))
        return Message(answer.to_record(), reply_to=message)

    return app

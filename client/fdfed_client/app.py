"""The site as a Flower `ClientApp`: three handlers, one for each kind of message."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fdfed.config import RunPlan
from fdfed.process.log_tags import tag_run
from fdfed.wire import (
    EvaluateInstruction,
    Prepare,
    ReadyRequest,
    RosterRelay,
    SecretRequest,
    TrainInstruction,
)
from fdfed_client.site import Site


def build_client_app(
    site: Site,
    *,
    admit_plan: Callable[[RunPlan, str], None] = lambda plan, signature: None,
    at_work: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> ClientApp:
    """An app whose handlers decode the record, ask the site, and encode its answer.

    Args:
        admit_plan: given a plan and the coordinator's signature; raises for one that this site does
            not take part in. A simulation has nobody to hide from, and takes any.
        at_work: goes around the site's training and scoring.
    """
    # No annotation: Flower looks for a plain assignment.
    app = ClientApp()

    @app.query("prepare")
    def prepare(message: Message, _: Context) -> Message:
        asked = Prepare.from_record(message.content)
        tag_run(asked.run_id)
        admit_plan(asked.plan, asked.plan_signature)
        return Message(site.prepare(asked).to_record(), reply_to=message)

    @app.query("secret")
    def secret(message: Message, _: Context) -> Message:
        offer = site.offer(SecretRequest.from_record(message.content))
        return Message(offer.to_record(), reply_to=message)

    @app.query("roster")
    def roster(message: Message, _: Context) -> Message:
        held = site.take_roster(RosterRelay.from_record(message.content))
        return Message(held.to_record(), reply_to=message)

    @app.query("ready")
    def ready(message: Message, _: Context) -> Message:
        announced = site.ready(ReadyRequest.from_record(message.content))
        return Message(announced.to_record(), reply_to=message)

    @app.train()
    def train(message: Message, _: Context) -> Message:
        instruction = TrainInstruction.from_record(message.content)
        admit_plan(instruction.plan, instruction.plan_signature)
        with at_work():
            return Message(site.train(instruction).to_record(), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, _: Context) -> Message:
        instruction = EvaluateInstruction.from_record(message.content)
        admit_plan(instruction.plan, instruction.plan_signature)
        with at_work():
            return Message(site.evaluate(instruction).to_record(), reply_to=message)

    return app

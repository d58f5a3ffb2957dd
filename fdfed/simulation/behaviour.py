"""What one site of a simulation does otherwise than the code that it should run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp


@runtime_checkable
class App(Protocol):
    """What answers a site's messages; Flower's `ClientApp` is one."""

    def __call__(self, message: Message, context: Context) -> Message:
        """The reply to `message`."""
        ...


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Changes to what a site answers. The coordinator and the other sites know nothing of them."""

    reply: Callable[[str, RecordDict, RecordDict], RecordDict] | None = None
    """Given the type of a message, its content and the honest reply's, what is sent instead."""

    def around(self, app: ClientApp) -> App:
        """`app`, whose replies are changed."""
        change = self.reply
        if change is None:
            return app

        def answer(message: Message, context: Context) -> Message:
            reply = app(message=message, context=context)
            if reply.has_error():
                return reply
            changed = change(message.metadata.message_type, message.content, reply.content)
            return Message(changed, reply_to=message)

        return answer


HONEST = Behaviour()

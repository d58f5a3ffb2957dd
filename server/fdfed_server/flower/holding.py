"""Holds a request that would come back with nothing until there is something, instead of having it
asked again and again.

Agents ask for messages, the coordinator asks for replies, and both ask for objects that the other
side is still uploading. Asked at intervals, each of them costs half an interval, several times a
round. Here the request waits in the SuperLink's event loop, which hears of what arrives because it
arrives through the same doors. Every look behind the door is one more pass of the same signed
request through Flower, which checks it anew: a node that is removed meanwhile hears so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
)
from google.protobuf.message import DecodeError
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as ASGIMessage

from fdfed_server.flower.deliveries import Deliveries

HOLD_SECONDS: Final = 1.0
"""How long a request is held at most: an agent that is told to stop leaves within this time, and no
proxy on the way takes the silence for a dead connection."""

_Key = tuple[str, object]
_UPLOAD: Final[_Key] = ("upload", None)
_FLEET: Final = "/v1/fleet/"
_RUNTIME: Final = "/v1/runtime/"


class Bells:
    """Wakes those who wait for a thing by its key. Of one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[_Key, set[asyncio.Event]] = {}

    def listen(self, keys: Iterable[_Key]) -> asyncio.Event:
        """An event that is set when one of the keys is rung from now on; `leave` afterwards."""
        event = asyncio.Event()
        for key in keys:
            self._waiting.setdefault(key, set()).add(event)
        return event

    def leave(self, keys: Iterable[_Key], event: asyncio.Event) -> None:
        """Nobody waits with this event any more."""
        for key in keys:
            waiting = self._waiting.get(key, set())
            waiting.discard(event)
            if not waiting:
                self._waiting.pop(key, None)

    def ring(self, keys: Iterable[_Key]) -> None:
        """Something has arrived under these keys."""
        for key in keys:
            for event in self._waiting.get(key, ()):
                event.set()


class Holding:
    """In front of Flower's application, behind the doors that decide who may call it.

    Args:
        deliveries: sets right what was handed out and never arrived.
        hold_seconds: 0 answers at once.
    """

    def __init__(
        self, app: ASGIApp, *, deliveries: Deliveries, hold_seconds: float = HOLD_SECONDS
    ) -> None:
        self._app = app
        self._deliveries = deliveries
        self._hold_seconds = hold_seconds
        self._bells = Bells()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        call = path.removeprefix(_FLEET).removeprefix(_RUNTIME)
        if call in ("push-messages", "push-object"):
            await self._push(path, scope, receive, send)
        elif call in ("pull-messages", "pull-object"):
            await self._pull(path, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _push(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        if body is None:
            return
        answer = await self._ask(scope, body)
        if answer.status == 200:
            with suppress(DecodeError):
                self._bells.ring(_arrived(path, body))
        await answer.send(send)

    async def _pull(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        if body is None:
            return
        try:
            keys = _awaited(path, body)
        except DecodeError:
            keys = ()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._hold_seconds
        hung_up = asyncio.create_task(_hang_up(receive))
        try:
            while True:
                # Before the look: what arrives between look and wait must not be missed.
                rung = self._bells.listen(keys)
                try:
                    answer = await self._look(path, scope, body)
                    rest = until - loop.time()
                    if not answer.empty or not keys or rest <= 0 or hung_up.done():
                        break
                    ringing = asyncio.create_task(rung.wait())
                    await asyncio.wait(
                        (ringing, hung_up), timeout=rest, return_when=asyncio.FIRST_COMPLETED
                    )
                    ringing.cancel()
                finally:
                    self._bells.leave(keys, rung)
        finally:
            hung_up.cancel()
        await answer.send(send)

    async def _look(self, path: str, scope: Scope, body: bytes) -> _Answer:
        """Flower's answer now; empty where there is nothing, or nothing whole."""
        if path == f"{_RUNTIME}pull-messages":
            wanted = PullAppMessagesRequest.FromString(body).message_ids
            if await asyncio.to_thread(self._deliveries.uploading, list(wanted)):
                return _Answer.nothing_yet()
        answer = await self._ask(scope, body)
        answer.empty = answer.status == 200 and _is_empty(path, answer.body)
        if answer.empty and path == f"{_FLEET}pull-messages":
            # Flower has checked the request's signature and node by now.
            node = PullMessagesRequest.FromString(body).node.node_id
            if await asyncio.to_thread(self._deliveries.take_back, node):
                answer = await self._ask(scope, body)
                answer.empty = answer.status == 200 and _is_empty(path, answer.body)
        return answer

    async def _ask(self, scope: Scope, body: bytes) -> _Answer:
        answer = _Answer()
        given = False

        async def receive() -> ASGIMessage:
            nonlocal given
            if given:
                # Nothing more comes: Flower's own answer ends the call.
                await asyncio.Event().wait()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        # A scope of its own: Flower's middleware leaves things in it.
        await self._app(dict(scope) | {"state": dict(scope.get("state", {}))}, receive, answer.take)
        return answer


class _Answer:
    """A response that is not yet sent."""

    def __init__(self) -> None:
        self.status = 500
        self.body = b""
        self.empty = False
        self._start: ASGIMessage = {"type": "http.response.start", "status": 500, "headers": []}

    @classmethod
    def nothing_yet(cls) -> _Answer:
        """What Flower would say of messages that nobody has answered."""
        answer = cls()
        answer.empty, answer.status = True, 200
        headers = [(b"content-type", b"application/protobuf"), (b"content-length", b"0")]
        answer._start = {"type": "http.response.start", "status": 200, "headers": headers}
        return answer

    async def take(self, message: ASGIMessage) -> None:
        """Takes what the application sends."""
        if message["type"] == "http.response.start":
            self._start, self.status = message, message["status"]
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    async def send(self, send: Send) -> None:
        """Passes it on."""
        await send(self._start)
        await send({"type": "http.response.body", "body": self.body})


def _awaited(path: str, body: bytes) -> tuple[_Key, ...]:
    """What a request waits for."""
    if path.endswith("pull-object"):
        return (("object", PullObjectRequest.FromString(body).object_id),)
    if path.startswith(_FLEET):
        return (("for", PullMessagesRequest.FromString(body).node.node_id),)
    wanted = PullAppMessagesRequest.FromString(body).message_ids
    # A reply counts from when it is whole: with any object, one may be.
    return (*(("reply", message) for message in wanted), _UPLOAD)


def _arrived(path: str, body: bytes) -> list[_Key]:
    """What a request has brought."""
    if path.endswith("push-object"):
        arrived: _Key = ("object", PushObjectRequest.FromString(body).object_id)
        return [arrived, _UPLOAD] if path.startswith(_FLEET) else [arrived]
    if path.startswith(_FLEET):
        replies = PushMessagesRequest.FromString(body).messages_list
        return [("reply", reply.metadata.reply_to_message_id) for reply in replies]
    messages = PushAppMessagesRequest.FromString(body).messages_list
    return [("for", message.metadata.dst_node_id) for message in messages]


def _is_empty(path: str, body: bytes) -> bool:
    if path.endswith("pull-object"):
        # An object that is there may be large: only the short answer is looked into.
        if len(body) > 64:
            return False
        found = PullObjectResponse.FromString(body)
        return found.object_found and not found.object_available
    kind: Callable[[], PullMessagesResponse | PullAppMessagesResponse]
    kind = PullMessagesResponse if path.startswith(_FLEET) else PullAppMessagesResponse
    response = kind()
    response.ParseFromString(body)
    return not response.messages_list


async def _read(receive: Receive) -> bytes | None:
    """The request's body; None if the caller has hung up."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

"""Holds a request that would come back with nothing until there is something, instead of having it
asked again and again.

Agents ask for messages, the coordinator asks for replies, and both ask for objects that the other
side is still uploading. Asked at intervals, each of them costs half an interval, several times a
round. Here the request waits in the SuperLink's event loop, which hears of what arrives because it
arrives through the same doors. Every look behind the door is one more pass of the same signed
request through Flower, which checks it anew: a node that is removed meanwhile hears so.

Messages come and go as parcels (`fdfed.wire.Parcel`): `push-parcel` and `pull-parcel` are Flower's
`push-messages` and `pull-messages` with the objects in the same request. Flower answers the call
itself, under the same signature or token; the objects follow behind its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from typing import Final

from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from google.protobuf.message import DecodeError
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as ASGIMessage

from fdfed.wire import PARCEL_BYTES, ROOM_HEADER, Parcel
from fdfed_server.flower.deliveries import Deliveries
from fdfed_server.flower.parcels import Parcels

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
        parcels: the objects of messages.
        hold_seconds: 0 answers at once.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        deliveries: Deliveries,
        parcels: Parcels,
        hold_seconds: float = HOLD_SECONDS,
    ) -> None:
        self._app = app
        self._deliveries = deliveries
        self._parcels = parcels
        self._hold_seconds = hold_seconds
        self._bells = Bells()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        side = next((side for side in (_FLEET, _RUNTIME) if path.startswith(side)), "")
        call = path.removeprefix(side) if side else ""
        if call == "push-object":
            await self._push_object(scope, receive, send)
        elif call == "push-parcel":
            await self._push_parcel(side, scope, receive, send)
        elif call in ("pull-parcel", "pull-object"):
            await self._pull(side, call, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _push_object(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        if body is None:
            return
        answer = await self._ask(scope, body)
        if answer.status == 200:
            with suppress(DecodeError):
                object_id = PushObjectRequest.FromString(body).object_id
                # With any object of a reply, the reply may be whole.
                self._bells.ring([("object", object_id), _UPLOAD])
        await answer.send(send)

    async def _push_parcel(self, side: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        if body is None:
            return
        parcel = Parcel()
        try:
            parcel.ParseFromString(body)
        except ValueError:
            await _Answer(400).send(send)
            return
        answer = await self._ask(_calling(scope, f"{side}push-messages"), parcel.head)
        if answer.status == 200:
            if side == _FLEET:
                await self._keep_reply(parcel, answer)
            else:
                await self._keep_messages(parcel, answer)
        await answer.send(send)

    async def _keep_reply(self, parcel: Parcel, answer: _Answer) -> None:
        request = parcel.read(PushMessagesRequest)
        response = PushMessagesResponse.FromString(answer.body)
        # Flower has looked at the first alone.
        metadata = request.messages_list[0].metadata
        left = await asyncio.to_thread(
            self._parcels.keep,
            metadata.run_id,
            response.session_id,
            response.objects_to_push,
            parcel.objects,
            answer=(metadata.message_id, metadata.reply_to_message_id),
        )
        self._bells.ring([("reply", metadata.reply_to_message_id)])
        self._bells.ring(("object", object_id) for object_id in parcel.objects)
        response.objects_to_push[:] = left
        answer.say(response.SerializeToString())

    async def _keep_messages(self, parcel: Parcel, answer: _Answer) -> None:
        request = parcel.read(PushAppMessagesRequest)
        response = PushAppMessagesResponse.FromString(answer.body)
        left = await asyncio.to_thread(
            self._parcels.keep,
            request.messages_list[0].metadata.run_id,
            response.session_id,
            response.objects_to_push,
            parcel.objects,
        )
        self._bells.ring(("for", message.metadata.dst_node_id) for message in request.messages_list)
        self._bells.ring(("object", object_id) for object_id in parcel.objects)
        response.objects_to_push[:] = left
        answer.say(response.SerializeToString())

    async def _pull(self, side: str, call: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        if body is None:
            return
        asked = f"{side}{'pull-messages' if call == 'pull-parcel' else call}"
        scope = _calling(scope, asked)
        try:
            keys = _awaited(asked, body)
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
                    answer = await self._look(asked, scope, body, hurry=loop.time() >= until)
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
        if call == "pull-parcel" and answer.status == 200:
            await self._bring(side, answer, _room(scope))
        await answer.send(send)

    async def _bring(self, side: str, answer: _Answer, room: int) -> None:
        """Turns the answer into a parcel, with the objects of the messages in it."""
        response = _pulled(side, answer.body)
        wanted = {
            envelope.metadata.message_id: [node.object_id for node in iterate_object_tree(tree)]
            for envelope, tree in zip(
                response.messages_list, response.message_object_trees, strict=True
            )
        }
        objects: dict[str, bytes] = {}
        if wanted:
            every = dict.fromkeys(chain.from_iterable(wanted.values()))
            objects = await asyncio.to_thread(self._parcels.bring, every, room)
        if side == _RUNTIME:
            # A reply is handed out once; one that is in the parcel whole is not asked for again.
            whole = [key for key, parts in wanted.items() if objects.keys() >= set(parts)]
            if whole:
                await asyncio.to_thread(self._parcels.forget, whole)
        answer.say(Parcel(answer.body, objects).SerializeToString())

    async def _look(self, path: str, scope: Scope, body: bytes, *, hurry: bool) -> _Answer:
        """Flower's answer now; empty where there is nothing, or nothing whole.

        Args:
            hurry: the caller is to be answered now. Flower is asked then also where there is no
                reply: it may say that there will be none.
        """
        if path == f"{_RUNTIME}pull-messages":
            wanted = list(PullAppMessagesRequest.FromString(body).message_ids)
            if not hurry and not await asyncio.to_thread(self._deliveries.any_reply, wanted):
                return _Answer.nothing_yet()
            if await asyncio.to_thread(self._deliveries.uploading, wanted):
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

    def __init__(self, status: int = 500) -> None:
        self.status = status
        self.body = b""
        self.empty = False
        headers = [(b"content-length", b"0")]
        self._start: ASGIMessage = {
            "type": "http.response.start",
            "status": status,
            "headers": headers,
        }

    @classmethod
    def nothing_yet(cls) -> _Answer:
        """What Flower would say of messages that nobody has answered."""
        answer = cls(200)
        answer.empty = True
        return answer

    async def take(self, message: ASGIMessage) -> None:
        """Takes what the application sends."""
        if message["type"] == "http.response.start":
            self._start, self.status = message, message["status"]
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    def say(self, body: bytes) -> None:
        """Puts another body in the place of the application's."""
        others = [pair for pair in self._start["headers"] if pair[0] != b"content-length"]
        length = (b"content-length", str(len(body)).encode())
        self._start = {**self._start, "headers": [*others, length]}
        self.body = body

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


def _is_empty(path: str, body: bytes) -> bool:
    if path.endswith("pull-object"):
        # An object that is there may be large: only the short answer is looked into.
        if len(body) > 64:
            return False
        found = PullObjectResponse.FromString(body)
        return found.object_found and not found.object_available
    return not _pulled(path, body).messages_list


def _pulled(path: str, body: bytes) -> PullMessagesResponse | PullAppMessagesResponse:
    kind: type[PullMessagesResponse | PullAppMessagesResponse]
    kind = PullMessagesResponse if path.startswith(_FLEET) else PullAppMessagesResponse
    response = kind()
    response.ParseFromString(body)
    return response


def _calling(scope: Scope, path: str) -> Scope:
    """The same request, with all that its sender signed, to another path."""
    return {**scope, "path": path, "raw_path": path.encode()}


def _room(scope: Scope) -> int:
    """How many bytes of objects the caller takes in the answer."""
    said = dict(scope["headers"]).get(ROOM_HEADER.encode(), b"")
    # Python converts no number of thousands of digits.
    return min(int(said), PARCEL_BYTES) if said.isdigit() and len(said) < 20 else PARCEL_BYTES


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

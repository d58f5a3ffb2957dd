"""A question for which there is nothing yet is held, and answered when something arrives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import httpx
import pytest
from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.message_pb2 import (
    Message,
    Metadata,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from starlette.types import Receive, Scope, Send

from fdfed.wire import PARCEL_BYTES, ROOM_HEADER, Parcel
from fdfed_server.flower.deliveries import Deliveries
from fdfed_server.flower.holding import Holding
from fdfed_server.flower.parcels import Parcels

NODE = 2**64 - 5
LONG = 5.0
X = "f" * 64
WANTED = ["a" * 64, "b" * 64]


class _Flower:
    """Flower's application, as far as these calls go: two queues and a store."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.replies: list[Message] = []
        self.objects: dict[str, bytes] = {X: b""}
        self.status = 200
        self.calls: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        path = scope["path"]
        self.calls.append(path)
        answer = self._answer(path, body) if self.status == 200 else b""
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    def _answer(self, path: str, body: bytes) -> bytes:
        if path == "/v1/runtime/push-messages":
            self.messages += PushAppMessagesRequest.FromString(body).messages_list
            return PushAppMessagesResponse(objects_to_push=WANTED).SerializeToString()
        if path == "/v1/fleet/push-messages":
            self.replies += PushMessagesRequest.FromString(body).messages_list
            return PushMessagesResponse(objects_to_push=WANTED).SerializeToString()
        if path.endswith("push-object"):
            pushed = PushObjectRequest.FromString(body)
            self.objects[pushed.object_id] = pushed.object_content
        elif path == "/v1/fleet/pull-messages":
            found = self.messages[:1]
            del self.messages[:1]
            trees = [ObjectTree(object_id=X)] * len(found)
            return PullMessagesResponse(
                messages_list=found, message_object_trees=trees
            ).SerializeToString()
        elif path == "/v1/runtime/pull-messages":
            trees = [ObjectTree(object_id=X)] * len(self.replies)
            return PullAppMessagesResponse(
                messages_list=self.replies, message_object_trees=trees
            ).SerializeToString()
        elif path.endswith("pull-object"):
            content = self.objects.get(PullObjectRequest.FromString(body).object_id)
            return PullObjectResponse(
                object_found=content is not None,
                object_available=bool(content),
                object_content=content or b"",
            ).SerializeToString()
        return b""


class _Deliveries(Deliveries):
    """Nothing is ever lost, or what the test says."""

    def __init__(self) -> None:
        self.back: Callable[[], bool] = lambda: False
        self.partial = False
        self.any = True
        self.asked: list[int] = []

    def take_back(self, node_id: int) -> bool:
        self.asked.append(node_id)
        return self.back()

    def any_reply(self, message_ids: Iterable[str]) -> bool:
        return self.any

    def uploading(self, message_ids: Iterable[str]) -> bool:
        return self.partial


class _Parcels(Parcels):
    """Objects in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.answers: list[tuple[str, str] | None] = []
        self.forgotten: list[str] = []
        self.rooms: list[int] = []

    def bring(self, object_ids: Iterable[str], room: int) -> dict[str, bytes]:
        self.rooms.append(room)
        return {key: self.kept[key] for key in object_ids if key in self.kept}

    def forget(self, message_ids: Iterable[str]) -> None:
        self.forgotten += message_ids

    def keep(
        self,
        run_id: int,
        session_id: str,
        wanted: Iterable[str],
        objects: Mapping[str, bytes],
        *,
        answer: tuple[str, str] | None = None,
    ) -> list[str]:
        self.answers.append(answer)
        self.kept |= {key: objects[key] for key in wanted if key in objects}
        return [key for key in wanted if key not in objects]


class _Client:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, path: str, request: Any, headers: dict[str, str] | None = None) -> bytes:
        content = request.SerializeToString()
        response = await self._client.post(path, content=content, headers=headers)
        self.status = response.status_code
        assert int(response.headers.get("content-length", "0")) in (0, len(response.content))
        return response.content

    async def parcel(self, path: str, request: Any, **headers: str) -> Parcel:
        parcel, body = Parcel(), await self.ask(path, request, headers)
        if self.status == 200:
            parcel.ParseFromString(body)
        return parcel

    def pull(self, **headers: str) -> Awaitable[Parcel]:
        request = PullMessagesRequest(node=Node(node_id=NODE))
        return self.parcel("/v1/fleet/pull-parcel", request, **headers)

    async def push(
        self, node: int = NODE, objects: Mapping[str, bytes] | None = None
    ) -> PushAppMessagesResponse:
        message = Message(metadata=Metadata(dst_node_id=node, message_id="m"))
        request = PushAppMessagesRequest(messages_list=[message])
        parcel = Parcel(request.SerializeToString(), objects)
        return PushAppMessagesResponse.FromString(await self.ask("/v1/runtime/push-parcel", parcel))

    async def push_reply(self, objects: Mapping[str, bytes] | None = None) -> PushMessagesResponse:
        reply = Message(metadata=Metadata(message_id="r", reply_to_message_id="m"))
        request = PushMessagesRequest(messages_list=[reply])
        parcel = Parcel(request.SerializeToString(), objects)
        return PushMessagesResponse.FromString(await self.ask("/v1/fleet/push-parcel", parcel))

    def pull_reply(self) -> Awaitable[Parcel]:
        request = PullAppMessagesRequest(message_ids=["m"])
        return self.parcel("/v1/runtime/pull-parcel", request)


def _run(
    talk: Callable[[_Client, _Flower, _Deliveries], Awaitable[None]],
    *,
    hold: float = LONG,
    parcels: _Parcels | None = None,
) -> float:
    """Seconds that the talk took."""

    async def run() -> None:
        flower, deliveries = _Flower(), _Deliveries()
        app = Holding(
            flower, deliveries=deliveries, parcels=parcels or _Parcels(), hold_seconds=hold
        )
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            await talk(_Client(client), flower, deliveries)

    began = time.monotonic()
    asyncio.run(run())
    return time.monotonic() - began


def test_an_agent_that_asks_before_there_is_a_message_has_it_as_soon_as_it_arrives() -> None:
    async def talk(client: _Client, _: _Flower, __: _Deliveries) -> None:
        waiting = asyncio.ensure_future(client.pull())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await client.push(node=7)
        await asyncio.sleep(0.05)
        assert not waiting.done(), "a message for another node"
        await client.push()
        (message,) = (await waiting).read(PullMessagesResponse).messages_list[:1]
        assert message.metadata.message_id == "m"

    assert _run(talk) < LONG / 2


def test_the_coordinator_has_a_reply_as_soon_as_it_is_whole() -> None:
    async def talk(client: _Client, _: _Flower, deliveries: _Deliveries) -> None:
        waiting = asyncio.ensure_future(client.pull_reply())
        deliveries.partial = True
        assert (await client.push_reply()).objects_to_push == WANTED
        await asyncio.sleep(0.05)
        assert not waiting.done(), "its objects are not there yet"
        deliveries.partial = False
        pushed = PushObjectRequest(object_id="last", object_content=b"1")
        await client.ask("/v1/fleet/push-object", pushed)
        assert (await waiting).read(PullAppMessagesResponse).messages_list

    assert _run(talk) < LONG / 2


@pytest.mark.parametrize("side", ["fleet", "runtime"])
def test_an_object_that_is_being_uploaded_is_waited_for_and_an_unknown_one_is_not(
    side: str,
) -> None:
    async def talk(client: _Client, _: _Flower, __: _Deliveries) -> None:
        path = f"/v1/{side}/pull-object"
        unknown = await client.ask(path, PullObjectRequest(object_id="y"))
        assert not PullObjectResponse.FromString(unknown).object_found
        waiting = asyncio.ensure_future(client.ask(path, PullObjectRequest(object_id=X)))
        await asyncio.sleep(0.05)
        pushed = PushObjectRequest(object_id=X, object_content=b"1")
        await client.ask("/v1/runtime/push-object", pushed)
        assert PullObjectResponse.FromString(await waiting).object_content == b"1"

    assert _run(talk) < LONG / 2


def test_nothing_is_held_longer_than_agreed() -> None:
    async def talk(client: _Client, _: _Flower, __: _Deliveries) -> None:
        assert not (await client.pull()).read(PullMessagesResponse).messages_list

    assert 0.2 <= _run(talk, hold=0.2) < LONG / 2


def test_flower_is_asked_for_a_reply_when_there_is_one_or_the_coordinator_has_waited() -> None:
    async def talk(client: _Client, flower: _Flower, deliveries: _Deliveries) -> None:
        deliveries.any = False
        await client.pull_reply()
        assert flower.calls == ["/v1/runtime/pull-messages"]

    assert 0.2 <= _run(talk, hold=0.2) < LONG / 2


def test_a_refusal_is_told_at_once_and_nothing_is_taken_back_for_a_stranger() -> None:
    async def talk(client: _Client, flower: _Flower, deliveries: _Deliveries) -> None:
        flower.status = 401
        await client.pull()
        assert client.status == 401
        assert deliveries.asked == []

    assert _run(talk) < LONG / 2


def test_what_was_handed_out_and_lost_is_handed_out_again_to_the_node_that_asks() -> None:
    async def talk(client: _Client, flower: _Flower, deliveries: _Deliveries) -> None:
        def back() -> bool:
            flower.messages.append(Message(metadata=Metadata(message_id="lost")))
            return True

        deliveries.back = back
        (message,) = (await client.pull()).read(PullMessagesResponse).messages_list
        assert message.metadata.message_id == "lost"
        assert deliveries.asked == [NODE]

    assert _run(talk) < LONG / 2


def test_a_question_that_is_no_protobuf_is_left_to_flower() -> None:
    async def talk(client: _Client, flower: _Flower, _: _Deliveries) -> None:
        flower.status = 400
        response = await client._client.post("/v1/fleet/pull-parcel", content=b"\xff\xff")
        assert response.status_code == 400
        assert flower.calls == ["/v1/fleet/pull-messages"]


def test_a_parcel_that_is_none_is_refused_before_flower_sees_it() -> None:
    async def talk(client: _Client, flower: _Flower, _: _Deliveries) -> None:
        for side in ("fleet", "runtime"):
            response = await client._client.post(f"/v1/{side}/push-parcel", content=b"\0\0\0\1")
            assert response.status_code == 400
        assert flower.calls == []

    assert _run(talk) < LONG / 2


def test_what_comes_in_a_parcel_is_kept_if_flower_wants_it_and_the_rest_is_still_asked_for() -> (
    None
):
    parcels = _Parcels()
    objects = {WANTED[0]: b"1", "c" * 64: b"not wanted"}

    async def talk(client: _Client, _: _Flower, __: _Deliveries) -> None:
        assert (await client.push(objects=objects)).objects_to_push == WANTED[1:]
        assert (await client.push_reply(objects)).objects_to_push == WANTED[1:]

    _run(talk, parcels=parcels)
    assert parcels.kept == {WANTED[0]: b"1"}
    assert parcels.answers == [None, ("r", "m")]


def test_nothing_is_kept_of_a_caller_whom_flower_refuses() -> None:
    parcels = _Parcels()

    async def talk(client: _Client, flower: _Flower, _: _Deliveries) -> None:
        flower.status = 401
        await client.ask("/v1/fleet/push-parcel", Parcel(b"", {WANTED[0]: b"1"}))
        assert client.status == 401

    _run(talk, parcels=parcels)
    assert (parcels.kept, parcels.answers) == ({}, [])


def test_a_message_brings_its_objects_and_a_whole_reply_is_forgotten_by_that() -> None:
    parcels = _Parcels()
    parcels.kept = {X: b"1"}

    async def talk(client: _Client, flower: _Flower, _: _Deliveries) -> None:
        flower.messages = [Message(metadata=Metadata(message_id="m"))]
        assert (await client.pull(**{ROOM_HEADER: "7"})).objects == {X: b"1"}
        assert parcels.forgotten == [], "an agent confirms what it has answered"
        flower.replies = [Message(metadata=Metadata(message_id="r", reply_to_message_id="m"))]
        await client.pull_reply()

    _run(talk, parcels=parcels)
    assert parcels.forgotten == ["r"]
    assert parcels.rooms == [7, PARCEL_BYTES]

"""A question for which there is nothing yet is held, and answered when something arrives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import httpx
import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
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
)
from starlette.types import Receive, Scope, Send

from fdfed_server.flower.deliveries import Deliveries
from fdfed_server.flower.holding import Holding

NODE = 2**64 - 5
LONG = 5.0


class _Flower:
    """Flower's application, as far as these calls go: two queues and a store."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.replies: list[Message] = []
        self.objects: dict[str, bytes] = {"x": b""}
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
        elif path == "/v1/fleet/push-messages":
            self.replies += PushMessagesRequest.FromString(body).messages_list
        elif path.endswith("push-object"):
            pushed = PushObjectRequest.FromString(body)
            self.objects[pushed.object_id] = pushed.object_content
        elif path == "/v1/fleet/pull-messages":
            found = self.messages[:1]
            del self.messages[:1]
            trees = [ObjectTree(object_id="x")] * len(found)
            return PullMessagesResponse(
                messages_list=found, message_object_trees=trees
            ).SerializeToString()
        elif path == "/v1/runtime/pull-messages":
            return PullAppMessagesResponse(messages_list=self.replies).SerializeToString()
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
        self.asked: list[int] = []

    def take_back(self, node_id: int) -> bool:
        self.asked.append(node_id)
        return self.back()

    def uploading(self, message_ids: Iterable[str]) -> bool:
        return self.partial


class _Client:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, path: str, request: Any) -> bytes:
        response = await self._client.post(path, content=request.SerializeToString())
        self.status = response.status_code
        return response.content

    def pull(self) -> Awaitable[bytes]:
        return self.ask("/v1/fleet/pull-messages", PullMessagesRequest(node=Node(node_id=NODE)))

    def push(self, node: int = NODE) -> Awaitable[bytes]:
        message = Message(metadata=Metadata(dst_node_id=node, message_id="m"))
        request = PushAppMessagesRequest(messages_list=[message])
        return self.ask("/v1/runtime/push-messages", request)

    def pull_reply(self) -> Awaitable[bytes]:
        return self.ask("/v1/runtime/pull-messages", PullAppMessagesRequest(message_ids=["m"]))


def _run(
    talk: Callable[[_Client, _Flower, _Deliveries], Awaitable[None]], *, hold: float = LONG
) -> float:
    """Seconds that the talk took."""

    async def run() -> None:
        flower, deliveries = _Flower(), _Deliveries()
        app = Holding(flower, deliveries=deliveries, hold_seconds=hold)
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
        (message,) = PullMessagesResponse.FromString(await waiting).messages_list[:1]
        assert message.metadata.message_id == "m"

    assert _run(talk) < LONG / 2


def test_the_coordinator_has_a_reply_as_soon_as_it_is_whole() -> None:
    async def talk(client: _Client, _: _Flower, deliveries: _Deliveries) -> None:
        waiting = asyncio.ensure_future(client.pull_reply())
        deliveries.partial = True
        reply = Message(metadata=Metadata(reply_to_message_id="m"))
        await client.ask("/v1/fleet/push-messages", PushMessagesRequest(messages_list=[reply]))
        await asyncio.sleep(0.05)
        assert not waiting.done(), "its objects are not there yet"
        deliveries.partial = False
        pushed = PushObjectRequest(object_id="last", object_content=b"1")
        await client.ask("/v1/fleet/push-object", pushed)
        assert PullAppMessagesResponse.FromString(await waiting).messages_list

    assert _run(talk) < LONG / 2


@pytest.mark.parametrize("side", ["fleet", "runtime"])
def test_an_object_that_is_being_uploaded_is_waited_for_and_an_unknown_one_is_not(
    side: str,
) -> None:
    async def talk(client: _Client, _: _Flower, __: _Deliveries) -> None:
        path = f"/v1/{side}/pull-object"
        unknown = await client.ask(path, PullObjectRequest(object_id="y"))
        assert not PullObjectResponse.FromString(unknown).object_found
        waiting = asyncio.ensure_future(client.ask(path, PullObjectRequest(object_id="x")))
        await asyncio.sleep(0.05)
        pushed = PushObjectRequest(object_id="x", object_content=b"1")
        await client.ask("/v1/runtime/push-object", pushed)
        assert PullObjectResponse.FromString(await waiting).object_content == b"1"

    assert _run(talk) < LONG / 2


def test_nothing_is_held_longer_than_agreed() -> None:
    async def talk(client: _Client, _: _Flower, __: _Deliveries) -> None:
        assert await client.pull() == b""

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
        (message,) = PullMessagesResponse.FromString(await client.pull()).messages_list
        assert message.metadata.message_id == "lost"
        assert deliveries.asked == [NODE]

    assert _run(talk) < LONG / 2


def test_a_question_that_is_no_protobuf_is_left_to_flower() -> None:
    async def talk(client: _Client, flower: _Flower, _: _Deliveries) -> None:
        flower.status = 400
        response = await client._client.post("/v1/fleet/pull-messages", content=b"\xff\xff")
        assert response.status_code == 400

    assert _run(talk) < LONG / 2

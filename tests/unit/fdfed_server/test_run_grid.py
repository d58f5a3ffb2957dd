"""Replies at the coordinator: a broken or hostile one concerns its sender alone."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import (
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import (
    GetNodesRequest,
    GetNodesResponse,
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)

from fdfed.errors import ConnectionFailed
from fdfed.wire import bundled, unbundled
from fdfed_server.config import ServerConfig
from fdfed_server.flower import empty_run, set_task_identity, site_nodes, stamp
from fdfed_server.flower.calls import flower_key
from fdfed_server.flower.grid import REPLY_UNAVAILABLE, RunGrid
from fdfed_server.flower.superlink import SuperLink


class _Runtime:
    """A SuperLink's Runtime API that holds one reply.

    Args:
        brought: how many of the reply's objects come with it.
    """

    def __init__(self, reply: Message, objects: dict[str, bytes], *, brought: int = 0) -> None:
        self.reply, self.objects, self.confirmed = reply, objects, 0
        self.brought, self.asked = brought, set[str]()
        self.nodes: list[NodeInfo] = []

    def pull_parcel(
        self, _: PullAppMessagesRequest
    ) -> tuple[PullAppMessagesResponse, dict[str, bytes]]:
        envelope = message_to_proto(remove_content_from_message(self.reply))
        tree = get_object_tree(self.reply)
        found = PullAppMessagesResponse(messages_list=[envelope], message_object_trees=[tree])
        return found, dict(list(self.objects.items())[: self.brought])

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802
        self.asked.add(request.object_id)
        content = self.objects.get(request.object_id)
        return PullObjectResponse(
            object_found=content is not None,
            object_available=content is not None,
            object_content=content or b"",
        )

    def ConfirmMessageReceived(self, _: object) -> None:  # noqa: N802
        self.confirmed += 1

    def GetNodes(self, _: GetNodesRequest) -> GetNodesResponse:  # noqa: N802
        return GetNodesResponse(nodes=self.nodes)

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def identity() -> None:
    set_task_identity(task_id=1, run_id=1, node_id=1)


def _reply(content: RecordDict | None = None) -> Message:
    question = Message(RecordDict(), dst_node_id=42, message_type="train")
    stamp(question)
    reply = Message(content or RecordDict({"c": ConfigRecord({"x": 1})}), reply_to=question)
    stamp(reply)
    return reply


def _objects(obj: InflatableObject) -> dict[str, bytes]:
    return {key: part.deflate() for key, part in get_all_nested_objects(obj).items()}


def _grid(runtime: _Runtime, node_keys: dict[str, str] | None = None) -> RunGrid:
    grid = RunGrid(SuperLink(ServerConfig()), token="t", node_keys=node_keys or {})  # noqa: S106
    grid._client = runtime  # type: ignore[assignment]
    grid.set_run(empty_run(1))
    return grid


@pytest.mark.parametrize("brought", [0, 1, 100])
def test_a_whole_reply_is_handed_out_and_confirmed(brought: int) -> None:
    reply = _reply()
    runtime = _Runtime(reply, _objects(reply), brought=brought)
    (found,) = _grid(runtime).pull_messages(["id"])
    assert found.content["c"] == ConfigRecord({"x": 1})
    assert found.metadata.message_id == reply.metadata.message_id
    # What came with it is not asked for; a reply that came whole needs no confirmation.
    assert runtime.asked == set(list(_objects(reply))[brought:])
    assert runtime.confirmed == bool(runtime.asked)


def test_a_reply_that_is_not_all_there_is_an_error_of_its_node() -> None:
    reply = _reply()
    objects = _objects(reply)
    objects.pop(reply.content.object_id)
    (found,) = _grid(_Runtime(reply, objects)).pull_messages(["id"])
    assert (found.error.code, found.error.reason) == (REPLY_UNAVAILABLE, "ObjectPullError")
    assert found.metadata.src_node_id == 42
    assert found.metadata.reply_to_message_id == reply.metadata.reply_to_message_id


@pytest.mark.parametrize("junk", [b"", b"\x00", b"Message  0\x00", b"Array  1\x00x", b"\xff" * 99])
def test_bytes_that_are_no_message_are_an_error_of_their_node(junk: bytes) -> None:
    reply = _reply()
    objects = {**_objects(reply), reply.metadata.message_id: junk}
    (found,) = _grid(_Runtime(reply, objects)).pull_messages(["id"])
    assert found.error.code == REPLY_UNAVAILABLE
    assert found.metadata.src_node_id == 42


def test_another_kind_of_object_under_the_replys_id_is_an_error_of_its_node() -> None:
    reply = _reply()
    record = ConfigRecord({"x": 2})
    objects = {**_objects(reply), reply.metadata.message_id: record.deflate()}
    (found,) = _grid(_Runtime(reply, objects)).pull_messages(["id"])
    assert found.error.reason == "TypeError"


def test_the_envelope_says_who_replied_whatever_the_reply_says_of_itself() -> None:
    reply, liar = _reply(), _reply()
    liar.metadata.__dict__["_src_node_id"] = 7
    objects = _objects(reply)
    objects[reply.metadata.message_id] = liar.deflate()
    (found,) = _grid(_Runtime(reply, objects)).pull_messages(["id"])
    assert found.metadata.src_node_id == 42


def test_a_reply_above_the_limit_is_an_error_of_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdfed_server.flower.grid.MAX_REPLY_BYTES", 100)
    reply = _reply(RecordDict({"c": ConfigRecord({"x": "y" * 200})}))
    (found,) = _grid(_Runtime(reply, _objects(reply))).pull_messages(["id"])
    assert found.error.code == REPLY_UNAVAILABLE


def test_an_error_reply_arrives_as_one() -> None:
    question = Message(RecordDict(), dst_node_id=42, message_type="train")
    stamp(question)
    reply = Message(Error(2, "DataError"), reply_to=question)
    stamp(reply)
    (found,) = _grid(_Runtime(reply, _objects(reply))).pull_messages(["id"])
    assert found.error.reason == "DataError"


def test_sites_are_told_by_registered_key_and_only_while_online() -> None:
    texts = {
        site: ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        .decode()
        for site in ("udiat", "busi", "tnbc")
    }
    runtime = _Runtime(_reply(), {})
    keys = {site: flower_key(text) for site, text in texts.items()}
    runtime.nodes = [
        NodeInfo(node_id=1, name="busi", public_key=keys["udiat"], status="online"),
        NodeInfo(node_id=2, name="busi", public_key=keys["busi"], status="offline"),
        NodeInfo(node_id=3, name="udiat", public_key=b"unknown", status="online"),
        NodeInfo(node_id=4, name="tnbc", public_key=keys["tnbc"], status="online"),
    ]
    assert site_nodes(_grid(runtime, texts)) == {"udiat": 1, "tnbc": 4}


class _BusyRuntime(_Runtime):
    """Keeps a message at once, and its objects only after as many refusals as asked for."""

    def __init__(self, refusals: int) -> None:
        super().__init__(_reply(), {})
        self.refusals, self.stored, self.sessions = refusals, set[str](), 0
        self.sent: Message = self.reply

    def push_parcel(
        self, request: PushAppMessagesRequest, objects: Mapping[str, bytes]
    ) -> PushAppMessagesResponse:
        self.sessions += 1
        assert unbundled(objects) == _objects(self.sent)
        (message,) = request.messages_list
        (tree,) = request.message_object_trees
        wanted = [node.object_id for node in iterate_object_tree(tree)]
        return PushAppMessagesResponse(
            message_ids=[message.metadata.message_id],
            objects_to_push=[key for key in wanted if key not in self.stored],
            session_id=str(self.sessions),
        )

    def PushObject(self, request: PushObjectRequest) -> PushObjectResponse:  # noqa: N802
        if self.refusals:
            self.refusals -= 1
            return PushObjectResponse(stored=False)
        self.stored.add(request.object_id)
        return PushObjectResponse(stored=True)


def test_a_message_that_the_superlink_was_too_busy_to_store_is_sent_again_under_its_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fdfed_server.flower.grid._UPLOAD_PAUSE", 0.0)
    runtime = _BusyRuntime(refusals=1)
    message = runtime.sent = Message(
        RecordDict({"c": ConfigRecord({"x": 1})}), dst_node_id=42, message_type="train"
    )
    (sent,) = _grid(runtime).push_messages([message])
    assert sent == message.metadata.message_id
    assert runtime.sessions == 2
    assert runtime.stored == set(
        bundled(get_all_nested_objects(message), message.metadata.message_id)
    )


def test_no_message_is_no_request() -> None:
    runtime = _BusyRuntime(refusals=0)
    assert _grid(runtime).push_messages([]) == []
    assert runtime.sessions == 0


def test_a_superlink_that_stores_nothing_ends_the_coordinator_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fdfed_server.flower.grid._UPLOAD_PAUSE", 0.0)
    runtime = _BusyRuntime(refusals=1000)
    message = runtime.sent = Message(
        RecordDict({"c": ConfigRecord({"x": 1})}), dst_node_id=42, message_type="train"
    )
    with pytest.raises(ConnectionFailed, match=r"cannot store .* Start the coordinator again"):
        _grid(runtime).push_messages([message])

"""What an agent does with one message, against a coordinator that is a few lists."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    inflate_object_from_contents,
)
from flwr.supercore.protobuf.client import ProtobufRequestContext

from fdfed.errors import CryptoError, DataError, InvalidInput, WireError
from fdfed.wire import Deflatable, bundled, unbundled
from fdfed_client.egress import Cleared, EgressGate, public_reason
from fdfed_client.flower import prepare_process
from fdfed_client.flower.fleet import Fleet, MessageTooLarge, _Transport, load_node_key
from fdfed_client.flower.link import Link
from fdfed_client.flower.node import _Node, run_node

NODE = 42


class _OpenGate(EgressGate):
    """Clears every reply: these tests are about the node, and their records are of no kind."""

    def __init__(self) -> None: ...

    def arrived(self, message: Message) -> None: ...

    def clear(self, reply: Message, *, asked: str) -> Cleared:
        return Cleared(reply)

    def note_connection(self, event: str) -> None: ...


def _message(content: RecordDict | None = None, *, run_id: int = 1, kind: str = "query") -> Message:
    metadata = Metadata(
        run_id=run_id,
        message_id="",
        src_node_id=1,
        dst_node_id=NODE,
        reply_to_message_id="",
        group_id="",
        created_at=1.8e9,
        ttl=1e9,
        message_type=kind,
    )
    message = make_message(metadata, content or RecordDict({"c": ConfigRecord({"x": 1})}))
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


class _Fleet(Fleet):
    """A coordinator with a queue of messages; it keeps the replies, whole."""

    def __init__(self, *messages: Message) -> None:
        self.queue = list(messages)
        self.objects = {
            key: part.deflate()
            for message in messages
            for key, part in get_all_nested_objects(message).items()
        }
        self.confirmed: list[str] = []
        self.replies: list[Message] = []
        self.sessions_to_lose = 0

    def activate(self) -> int:
        return NODE

    def deactivate(self, node_id: int) -> None: ...

    def beat(self, node_id: int) -> bool:
        return True

    def pull(self, node_id: int) -> tuple[Message, ObjectTree] | None:
        if not self.queue:
            return None
        message = self.queue.pop(0)
        return remove_content_from_message(message), get_object_tree(message)

    def pull_object(self, node_id: int, run_id: int, object_id: str) -> bytes:
        if object_id not in self.objects:
            raise ObjectPullError(object_id, "gone")
        return self.objects[object_id]

    def confirm(self, node_id: int, run_id: int, message_id: str) -> None:
        self.confirmed.append(message_id)

    def push(
        self, node_id: int, cleared: Cleared, seconds: float
    ) -> tuple[dict[str, Deflatable], str]:
        reply = cleared.message
        self.uploaded: dict[str, bytes] = {}
        self.reply_id = reply.metadata.message_id
        objects = bundled(get_all_nested_objects(reply), self.reply_id)
        self.wanted = set(objects)
        return objects, "session"

    def push_object(
        self, node_id: int, run_id: int, session_id: str, object_id: str, content: bytes
    ) -> None:
        if self.sessions_to_lose:
            self.sessions_to_lose -= 1
            raise ObjectPushError(object_id, run_id, session_id)
        self.uploaded[object_id] = content
        if set(self.uploaded) == self.wanted:
            found = inflate_object_from_contents(self.reply_id, unbundled(self.uploaded))
            assert isinstance(found, Message)
            self.replies.append(found)


def _serve(fleet: _Fleet, app: ClientApp, *, max_bytes: int = 10**6) -> list[str]:
    """What the agent tells while it works through the whole queue."""
    stop, told = threading.Event(), []

    def tell(line: str) -> None:
        told.append(line)
        if " message " in line and not fleet.queue:
            stop.set()

    link = Link(fleet, server="h:1", stop=stop, heartbeat_seconds=10, patience=0, tell=told.append)
    node = _Node(app, fleet, link, gate=_OpenGate(), site="udiat", max_bytes=max_bytes, tell=tell)
    node.serve(stop, 0.001)
    return told


def _app(handler: Callable[[Message, Context], Message]) -> ClientApp:
    app = ClientApp()
    app.query()(handler)
    return app


def _echo(message: Message, _: Context) -> Message:
    return Message(message.content, reply_to=message)


def test_a_message_is_fetched_confirmed_and_answered_whole() -> None:
    content = RecordDict({"a": ArrayRecord({"w": Array(np.arange(5.0))})})
    message = _message(content)
    fleet = _Fleet(message)
    _serve(fleet, _app(_echo))
    (reply,) = fleet.replies
    np.testing.assert_array_equal(reply.content["a"]["w"].numpy(), np.arange(5.0))
    assert fleet.confirmed == [message.metadata.message_id]
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (NODE, 1)


@pytest.mark.parametrize("error", [DataError("/data/anna.png"), KeyError("patient anna")])
def test_an_exception_crosses_as_a_fixed_sentence_and_the_next_message_is_answered(
    error: Exception,
) -> None:
    def handler(message: Message, context: Context) -> Message:
        if message.content["c"]["x"] == 1:
            raise error
        return _echo(message, context)

    fleet = _Fleet(_message(), _message(RecordDict({"c": ConfigRecord({"x": 2})})))
    told = _serve(fleet, _app(handler))
    failed, answered = fleet.replies
    assert (failed.error.code, failed.error.reason) == (2, public_reason(error))
    assert "anna" not in failed.error.reason
    assert answered.has_content()
    assert "anna" not in " ".join(told)


def test_a_handler_that_returns_something_else_is_an_error_reply() -> None:
    fleet = _Fleet(_message())
    _serve(fleet, _app(lambda *_: None))  # type: ignore[arg-type, return-value]
    assert fleet.replies[0].error.reason == public_reason(TypeError())


def test_a_message_above_the_limit_is_refused_before_the_app_sees_it() -> None:
    called: list[Message] = []

    def handler(message: Message, context: Context) -> Message:
        called.append(message)
        return _echo(message, context)

    large = RecordDict({"c": ConfigRecord({"x": "y" * 10_000})})
    fleet = _Fleet(_message(large))
    _serve(fleet, _app(handler), max_bytes=9_000)
    assert fleet.replies[0].error.reason == public_reason(MessageTooLarge())
    assert called == []


@pytest.mark.parametrize("junk", [b"", b"\x00", b"Message  0\x00", b"Array  1\x00x", b"\xff" * 99])
def test_bytes_that_are_no_message_are_answered_with_a_wire_error(junk: bytes) -> None:
    message = _message()
    fleet = _Fleet(message)
    fleet.objects[message.metadata.message_id] = junk
    _serve(fleet, _app(_echo))
    assert fleet.replies[0].error.reason == public_reason(WireError())


def test_the_envelope_decides_which_run_and_kind_a_message_is_of() -> None:
    message = _message()
    liar = _message(message.content, run_id=99, kind="train")
    fleet = _Fleet(message)
    fleet.objects[message.metadata.message_id] = liar.deflate()
    seen: list[int] = []

    def handler(received: Message, context: Context) -> Message:
        seen.append(context.run_id)
        return _echo(received, context)

    _serve(fleet, _app(handler))
    assert seen == [1]
    assert fleet.replies[0].metadata.run_id == 1


def test_a_message_whose_objects_are_gone_is_passed_over() -> None:
    gone, kept = _message(), _message(RecordDict({"c": ConfigRecord({"x": 2})}))
    fleet = _Fleet(gone, kept)
    del fleet.objects[gone.metadata.message_id]
    told = _serve(fleet, _app(_echo))
    assert [reply.content["c"]["x"] for reply in fleet.replies] == [2]
    assert any("came to nothing" in line for line in told)


def test_an_upload_whose_session_ended_begins_anew() -> None:
    fleet = _Fleet(_message())
    fleet.sessions_to_lose = 1
    _serve(fleet, _app(_echo))
    assert len(fleet.replies) == 1


def test_the_apps_memory_lasts_for_one_run() -> None:
    counts: list[object] = []

    def handler(message: Message, context: Context) -> Message:
        n = context.state["n"]["n"] if "n" in context.state else 0
        context.state["n"] = ConfigRecord({"n": n + 1})  # type: ignore[operator]
        counts.append((context.run_id, n, context.node_config["site"]))
        return _echo(message, context)

    fleet = _Fleet(*(_message(run_id=run) for run in (1, 1, 2, 1)))
    _serve(fleet, _app(handler))
    assert counts == [(1, 0, "udiat"), (1, 1, "udiat"), (2, 0, "udiat"), (1, 0, "udiat")]


def _key_text(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
    form: PrivateFormat = PrivateFormat.OpenSSH,
) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"no key", "cannot be read"),
        (_key_text(ed25519.Ed25519PrivateKey.generate()), "not an elliptic-curve key"),
        (_key_text(ec.generate_private_key(ec.SECP256R1()), PrivateFormat.PKCS8), "OpenSSH"),
    ],
)
def test_a_wrong_node_key_is_named_with_its_setting(text: bytes, message: str) -> None:
    with pytest.raises(CryptoError, match=rf"node_key in site\.toml.*{message}"):
        load_node_key(text)


@pytest.mark.parametrize("seconds", [0.0, 9.9, 1801.0, float("nan")])
def test_a_heartbeat_that_flower_does_not_take_is_refused(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(InvalidInput, match="10 to 1800"):
        run_node(
            _app(_echo),
            gate=_OpenGate(),
            server="h:1",
            root_certificates=b"",
            private_key=b"",
            site="udiat",
            state=tmp_path,
            stop=threading.Event(),
            heartbeat_seconds=seconds,
        )


def test_the_process_is_made_quiet_and_what_it_writes_its_owners_alone(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    shell = {"FLWR_TELEMETRY_ENABLED": "1", "FLWR_X": "1", "NO_PROXY": "intra", "PATH": "/bin"}
    try:
        with mock.patch.dict(os.environ, shell, clear=True):
            prepare_process(tmp_path)
            assert dict(os.environ) == {
                "PATH": "/bin",
                "FLWR_TELEMETRY_ENABLED": "0",
                "FLWR_DISABLE_UPDATE_CHECK": "1",
                "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
                "FLWR_HOME": str(tmp_path / "flwr"),
                "NO_PROXY": "intra,localhost,127.0.0.1",
                "no_proxy": "intra,localhost,127.0.0.1",
            }
        assert os.umask(0o022) == 0o077
    finally:
        os.umask(mask)


def test_a_certificate_that_is_no_pem_is_named_with_its_setting() -> None:
    key = _key_text(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(CryptoError, match=r"ca in site\.toml"):
        Fleet(
            *("h:1", b"no pem", key),
            heartbeat_seconds=10,
            max_bytes=1,
            admit=lambda path, size: None,
        )


def _transport(body: bytes, limit: int, headers: dict[str, str] | None = None) -> _Transport:
    transport = _Transport.__new__(_Transport)
    transport._max_bytes = limit
    transport._admit = lambda path, size: None
    transport._client = httpx.Client(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, content=body, headers=headers))
    )
    return transport


def _intercept(transport: _Transport) -> httpx.Response:
    request = httpx.Request("POST", "https://h/v1")
    context = ProtobufRequestContext(rpc_method="m", message=ObjectTree(), request=request)

    def never(_: ProtobufRequestContext) -> httpx.Response:
        raise AssertionError("Flower's own client was used")

    with transport._client:
        return transport.intercept(context, never)


def test_an_answer_of_the_limits_size_is_read_and_one_byte_more_is_not() -> None:
    assert _intercept(_transport(b"x" * 100, 100)).content == b"x" * 100
    with pytest.raises(MessageTooLarge, match="larger than 100 bytes"):
        _intercept(_transport(b"x" * 101, 100))


def test_a_compressed_answer_counts_with_the_size_that_it_unpacks_to() -> None:
    packed = gzip.compress(b"x" * 1_000_000)
    assert len(packed) < 2_000
    headers = {"content-encoding": "gzip"}
    assert _intercept(_transport(packed, 1_000_000, headers)).content == b"x" * 1_000_000
    with pytest.raises(MessageTooLarge):
        _intercept(_transport(packed, 2_000, headers))


class _Slow(_Fleet):
    """Tells the agent to stop while it answers, and fetches its reply after a few questions."""

    def __init__(self, stop: threading.Event, *, fetched_after: int, goes_away: bool) -> None:
        super().__init__(_message())
        self.stop, self.fetched_after, self.goes_away = stop, fetched_after, goes_away
        self.questions, self.left_after = 0, -1

    def pull(self, node_id: int) -> tuple[Message, ObjectTree] | None:
        if not self.stop.is_set():
            return super().pull(node_id)
        self.questions += 1
        if self.goes_away:
            raise httpx.ConnectError("away")
        if self.questions == self.fetched_after:
            self.queue = [_message(RecordDict({"c": ConfigRecord({"x": 2})}))]
            return super().pull(node_id)
        return None

    def deactivate(self, node_id: int) -> None:
        self.left_after = self.questions


def _stopped_while_it_answers(
    *, linger_seconds: float, fetched_after: int = 3, goes_away: bool = False
) -> _Slow:
    stop = threading.Event()
    fleet = _Slow(stop, fetched_after=fetched_after, goes_away=goes_away)

    def answer(message: Message, context: Context) -> Message:
        stop.set()
        return _echo(message, context)

    link = Link(
        fleet, server="h:1", stop=stop, heartbeat_seconds=10, patience=0, tell=lambda _: None
    )
    node = _Node(
        _app(answer),
        fleet,
        link,
        gate=_OpenGate(),
        site="udiat",
        max_bytes=10**6,
        linger_seconds=linger_seconds,
        tell=lambda _: None,
    )
    node.serve(stop, 0.001)
    return fleet


def test_a_node_that_is_told_to_stop_stays_until_its_last_reply_was_fetched() -> None:
    fleet = _stopped_while_it_answers(linger_seconds=30)
    assert fleet.left_after == 3
    # What the coordinator asks next is no longer answered.
    assert len(fleet.replies) == 1


def test_a_reply_that_nobody_fetches_holds_the_node_for_its_time_alone() -> None:
    fleet = _stopped_while_it_answers(linger_seconds=0.05, fetched_after=10**9)
    assert fleet.left_after > 0
    assert _stopped_while_it_answers(linger_seconds=0).left_after == 0


def test_a_coordinator_that_has_gone_is_not_waited_for() -> None:
    fleet = _stopped_while_it_answers(linger_seconds=30, goes_away=True)
    assert fleet.questions == 1

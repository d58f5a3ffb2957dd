"""What crosses between coordinator and sites once a round: Flower's objects, and our records."""

from __future__ import annotations

import contextlib
import hashlib
import json

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.serde import message_to_proto, recorddict_from_proto, recorddict_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from fdfed.errors import InvalidInput, WireError
from fdfed.wire import (
    EvaluateInstruction,
    EvaluateResult,
    MaskedResult,
    Parcel,
    Prepare,
    Prepared,
    Ready,
    ReadyRequest,
    RosterInForce,
    RosterRelay,
    SecretOffer,
    SecretRequest,
    TrainInstruction,
    TrainResult,
    Weights,
    unbundled,
)
from fdfed_client.flower import node
from fdfed_server.flower import grid
from fdfed_server.flower.pieces import Pieces
from tests.fuzz.parties import PLAN, RUN
from tests.fuzz.target import JsonPart, Target

MESSAGES = (
    Prepare,
    Prepared,
    SecretRequest,
    SecretOffer,
    TrainInstruction,
    TrainResult,
    EvaluateInstruction,
    EvaluateResult,
    RosterRelay,
    RosterInForce,
    ReadyRequest,
    Ready,
    MaskedResult,
)
TENSORS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7)}


class NotFlower(Exception):
    """The bytes are no record at all: Flower's affair."""


def record(data: bytes) -> None:
    """A message's kind (the first byte), and its record in Flower's protobuf form."""
    kind = MESSAGES[data[0] % len(MESSAGES)] if data else Prepare
    try:
        parts = recorddict_from_proto(ProtoRecordDict.FromString(data[1:]))
    except Exception as err:
        raise NotFlower from err
    message = kind.from_record(parts)
    weights = getattr(message, "weights", None)
    if weights is not None:
        assert sum(value.nbytes for value in weights.values()) == weights.nbytes
    again = message.to_record()
    assert set(again) == {name for name in parts if name in again}


def record_bytes(number: int, parts: RecordDict) -> bytes:
    """The input of `record` for a message of `MESSAGES[number]`."""
    return bytes([number]) + recorddict_to_proto(parts).SerializeToString()


def _with_plan(text: str) -> bytes:
    parts = Prepare(plan=PLAN, run_id=RUN).to_record()
    parts["fdfed"]["plan"] = text
    try:
        return record_bytes(0, parts)
    except (ValueError, TypeError):  # a lone surrogate is no text on any wire
        return b""


def weights(data: bytes) -> None:
    """A list of tensors (a line of JSON) and the packed array that it lists."""
    listed, _, packed = data.partition(b"\n")
    found = Weights(
        ArrayRecord({"packed": Array("uint8", (1,), "numpy.ndarray", packed)}),
        listed.decode("utf-8", errors="replace"),
    )
    assert sum(value.nbytes for value in found.values()) == found.nbytes


def packed_bytes(text: str) -> bytes:
    """The input of `weights` with `text` for the list of `TENSORS`."""
    flat = np.concatenate([value.reshape(-1).view(np.uint8) for value in TENSORS.values()])
    return text.encode("utf-8", errors="replace") + b"\n" + Array(flat).data


LIMIT = 1 << 20
MARK = b"fdfed small objects"
"""The head of the parcel within a bundle."""


def objects(data: bytes) -> None:
    """The objects of a Flower message: id (64), length (4), content, again and again; the first is
    the message. Read as an agent reads it, and then as the coordinator does."""
    found: dict[str, bytes] = {}
    while len(data) > 68:
        size = int.from_bytes(data[64:68], "big")
        found[data[:64].decode("latin-1")] = data[68 : 68 + size]
        data = data[68 + size :]
    envelope = make_message(
        metadata=Metadata(1, next(iter(found), ""), 2, 1, "", "", 0.0, 60.0, "train"),
        content=RecordDict(),
    )
    message = node._rebuilt(envelope, dict(found), limit=LIMIT)
    assert message.metadata.run_id == 1
    assert _held(message) <= LIMIT
    pieces = Pieces(found.__getitem__, folder=None)
    fetched = {key: pieces.pull(key) for key in found}
    assert grid._rebuilt(message_to_proto(envelope), fetched, pieces).metadata.src_node_id == 2


def parcel(data: bytes) -> None:
    """A body at the public port: the call's head and the objects that came with it."""
    found = Parcel()
    found.ParseFromString(data)
    again = Parcel()
    again.ParseFromString(found.SerializeToString())
    assert (again.head, again.objects) == (found.head, found.objects)
    found.read(PushMessagesRequest)


def bundle(data: bytes) -> None:
    """The content of one object, which may hold many. After a bundle's mark the ids within are made
    those of their contents in a second try, so that what lies behind them is reached."""
    outer = "0" * 64
    _check_unbundled(outer, data)
    head, mark, body = data.partition(MARK)
    inner = Parcel()
    if mark:
        with contextlib.suppress(ValueError):
            inner.ParseFromString(len(MARK).to_bytes(4, "big") + MARK + body)
            true = {hashlib.sha256(part).hexdigest(): part for part in inner.objects.values()}
            _check_unbundled(outer, head[:-4] + Parcel(MARK, true).SerializeToString())


def _check_unbundled(outer: str, content: bytes) -> None:
    found = unbundled({outer: content})
    assert found == {outer: content} or all(
        hashlib.sha256(part).hexdigest() == key for key, part in found.items()
    )
    assert sum(map(len, found.values())) <= len(content)


def _held(message: Message) -> int:
    return sum(
        len(array.data)
        for part in message.content.array_records.values()
        for array in part.values()
    )


_LIST = json.dumps([[n, v.dtype.name, list(v.shape)] for n, v in TENSORS.items()])
_RECORD = (
    "fdfed/wire/record.py",
    "fdfed/wire/messages.py",
    "fdfed/wire/masked.py",
    "fdfed/wire/stats.py",
    "fdfed/wire/flat_array.py",
)

TARGETS = (
    Target(
        "record",
        record,
        (WireError, NotFlower),
        (*_RECORD, "fdfed/wire/weights.py"),
        (JsonPart(PLAN.to_json(), _with_plan),),
    ),
    Target(
        "weights",
        weights,
        (WireError,),
        ("fdfed/wire/weights.py", "fdfed/wire/flat_array.py"),
        (JsonPart(_LIST, packed_bytes),),
    ),
    Target("parcel", parcel, (ValueError,), ("fdfed/wire/parcel.py",), max_bytes=8192),
    Target("bundle", bundle, (WireError,), ("fdfed/wire/bundle.py",)),
    Target("flower-objects", objects, (WireError, InvalidInput), ("fdfed/wire/expansion.py",)),
)

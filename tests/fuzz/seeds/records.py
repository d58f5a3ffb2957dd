"""Seeds of Flower's objects and our records."""

from __future__ import annotations

import json

import numpy as np
from flwr.app import Array, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.serde import message_to_proto, recorddict_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fdfed.evaluation import Aggregate
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
    bundled,
)
from tests.fuzz import parties
from tests.fuzz.parties import PLAN, RUN, SITES
from tests.fuzz.seeds.kinds import Seeds
from tests.fuzz.targets.records import MARK, TENSORS


def records() -> Seeds:
    """Each message as a record, one as Flower's objects, and packed weights."""
    messages = _messages()
    for number, message in enumerate(messages):
        parts = message.to_record()
        name = type(message).__name__.lower()
        yield "record", name, bytes([number]) + recorddict_to_proto(parts).SerializeToString()
    yield "flower-objects", "prepared", _objects(messages[1].to_record())
    yield "flower-objects", "trained", _objects(messages[5].to_record())
    yield from _parcels(messages[5].to_record())
    flat = np.concatenate([value.reshape(-1).view(np.uint8) for value in TENSORS.values()])
    listed = json.dumps([[n, v.dtype.name, list(v.shape)] for n, v in TENSORS.items()])
    yield "weights", "two", listed.encode() + b"\n" + Array(flat).data
    yield "weights", "none", b"[]\n" + Array(np.zeros(0, np.uint8)).data
    yield "weights", "empty-tensor", b'[["a","float64",[0,3]]]\n' + Array(np.zeros(0, "u1")).data
    yield "weights", "halves", b'[["a","float16",[2]]]\n' + Array(np.ones(4, "u1")).data


def _messages() -> list[object]:
    scores = Aggregate(10, 1, 0.7, 0.1, 0.6, 0.7, 0.8)
    same = {"run_id": RUN, "server_round": 3}
    vectors = {name: np.array([0.5, 0.25]) for name in ("alpha", "fd", "exch", "valid")}
    counts = {"num_train": 5, "num_validation": 2, "num_test": 2, "num_empty": 0}
    return [
        Prepare(plan=PLAN, run_id=RUN),
        Prepared(site="ad", phantoms=True, version="0.1", **counts),
        SecretRequest(**same, attempt=1, members=SITES, after_epoch=4),
        SecretOffer(epoch=7, text="{}"),
        TrainInstruction(
            **same,
            plan=PLAN,
            attempt=1,
            phase=2,
            total_examples=9,
            best_round=2,
            alpha=np.zeros(2),
            target=np.array([np.nan, 1.0]),
            weights=TENSORS,
        ),
        TrainResult(
            **same,
            **vectors,
            attempt=1,
            num_examples=4,
            loss_seg=0.5,
            seconds=1.5,
            weights=TENSORS,
        ),
        EvaluateInstruction(**same, plan=PLAN, part="test", weights=TENSORS),
        EvaluateResult(**same, part="validation", dice=scores, iou=scores),
        RosterRelay(roster=parties.ROSTER.text.decode(), signatures="[]"),
        RosterInForce(version=1, digest="d" * 64),
        ReadyRequest(**same, attempt=1),
        Ready(announcement="{}"),
        MaskedResult(**same, attempt=1, seconds=1.0, values=np.arange(3, dtype=np.uint64)),
    ]


def _parcels(parts: RecordDict) -> Seeds:
    """A reply as it is pushed, and the object that holds its small ones."""
    message: Message = make_message(
        metadata=Metadata(1, "", 2, 1, "", "", 0.0, 60.0, "train"), content=parts
    )
    root = message.object_id
    objects = {k: v.deflate() for k, v in bundled(get_all_nested_objects(message), root).items()}
    head = PushMessagesRequest(
        node=Node(node_id=2), messages_list=[message_to_proto(message)]
    ).SerializeToString()
    yield "parcel", "reply", Parcel(head, objects).SerializeToString()
    yield "parcel", "empty", Parcel().SerializeToString()
    yield "parcel", "cut", Parcel(b"", objects).SerializeToString()[:-1]
    [small] = [content for content in objects.values() if MARK in content]
    yield "bundle", "small-objects", small
    yield "bundle", "another-content", small[:-1] + bytes([small[-1] ^ 1])
    yield "bundle", "no-bundle", objects[root]


def _objects(parts: RecordDict) -> bytes:
    message: Message = make_message(
        metadata=Metadata(1, "", 2, 1, "", "", 0.0, 60.0, "train"), content=parts
    )
    nested = get_all_nested_objects(message)
    order = [message.object_id, *(key for key in nested if key != message.object_id)]
    contents = [(key, nested[key].deflate()) for key in order]
    return b"".join(key.encode() + len(c).to_bytes(4, "big") + c for key, c in contents)

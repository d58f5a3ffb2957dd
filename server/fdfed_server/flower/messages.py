"""Flower messages, runs and identities made by hand, for whoever drives apps in one process.

Flower gives these things to an app from the outside: the process identity before `Message(...)`
may be called, the run before a `Grid` may be asked for it, the wire form of a message between two
processes. A grid that lives in one process has to make them itself.
"""

from __future__ import annotations

from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "NodeInfo",
    "Run",
    "empty_run",
    "node_info",
    "roundtrip",
    "set_task_identity",
    "stamp",
]


def set_task_identity(*, task_id: int, run_id: int, node_id: int) -> None:
    """Sets who this process is, which Flower stamps on every `Message` that it creates.

    The identity is a global of the process: there can be one run per process at a time. Replies do
    not use it (they take their metadata from the message that they answer), so several sites may
    answer from threads of one process.
    """
    TaskIdentity.task_id = task_id
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id


def stamp(message: Message) -> str:
    """The content hash of `message`, which is also written into it as its message id.

    `Metadata.message_id` has no setter: in Flower the sender's grid or node writes it just before
    the message leaves, in the same way as here, because the id is the hash of the finished object.
    """
    message_id = message.object_id
    message.metadata.__dict__["_message_id"] = message_id
    return message_id


def roundtrip(message: Message) -> Message:
    """`message` as its receiver would hold it: serialised object by object and rebuilt.

    The copy shares no memory with the original, keeps its message id, and has been through the
    same code that checks and rebuilds every record in a deployment.
    """
    message_id = message.object_id
    contents = {key: part.deflate() for key, part in get_all_nested_objects(message).items()}
    copy = inflate_object_from_contents(message_id, contents)
    if not isinstance(copy, Message):
        raise TypeError(f"a Message came back from its wire form as {type(copy).__name__}")
    copy.metadata.__dict__["_message_id"] = message_id
    return copy


def empty_run(run_id: int = 1) -> Run:
    """A run without an app bundle, for a grid that has no SuperLink."""
    return Run.create_empty(run_id)


def node_info(node_id: int, name: str, *, public_key: bytes = b"") -> NodeInfo:
    """An online node as `Grid.get_nodes` reports it."""
    return NodeInfo(node_id=node_id, name=name, public_key=public_key, status="online")

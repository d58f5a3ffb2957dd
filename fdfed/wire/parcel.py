"""A call of Flower's with the objects that belong to it, in one body of a request or an answer.

Flower moves every object of a message in a request of its own, and each request costs its server
far more than the object: signature, layers, a transaction. A parcel holds the protobuf of one call
and as many objects as fit; what does not fit goes object by object, as ever.

    head length (4 bytes) | head | object id (32 bytes) | length (4 bytes) | object | …

Lengths are big-endian, ids are SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

PARCEL_FORMAT: Final = 1
PARCEL_BYTES: Final = 8 * 2**20
"""Most bytes of objects in a parcel: what both sides hold in memory of a message at a time."""
_LENGTH: Final = 4
_ID: Final = 32
_MAX_OBJECTS: Final = 10_000

AnyMessage = TypeVar("AnyMessage", bound=Message)


class Parcel:
    """A head and objects by their id. It has the two methods by which Flower's client writes what
    it sends and reads what it gets."""

    def __init__(self, head: bytes = b"", objects: Mapping[str, bytes] | None = None) -> None:
        self.head = head
        self.objects = dict(objects or {})

    def SerializeToString(self, *, deterministic: bool = True) -> bytes:  # noqa: N802
        """The bytes that travel. They are always the same for the same objects in one order."""
        blocks = [_length(self.head), self.head]
        for object_id, content in self.objects.items():
            blocks += (bytes.fromhex(object_id), _length(content), content)
        return b"".join(blocks)

    def ParseFromString(self, data: bytes | memoryview) -> None:  # noqa: N802
        """Takes the place of what was here.

        Raises:
            ValueError: if `data` is not a parcel.
        """
        view, objects = memoryview(data), {}
        self.head, offset = _block(view, 0)
        while offset < len(view):
            object_id = bytes(view[offset : offset + _ID])
            objects[object_id.hex()], offset = _block(view, offset + _ID)
            if len(objects) > _MAX_OBJECTS:
                raise ValueError(f"a parcel of more than {_MAX_OBJECTS} objects")
        self.objects = objects

    def read(self, kind: type[AnyMessage]) -> AnyMessage:
        """The head.

        Raises:
            ValueError: if it is no protobuf of this kind.
        """
        message: AnyMessage = kind()
        try:
            message.ParseFromString(self.head)
        except DecodeError as err:
            raise ValueError(f"a parcel whose head is no {kind.__name__}") from err
        return message


def fill(contents: Iterable[tuple[str, bytes]], room: int = PARCEL_BYTES) -> dict[str, bytes]:
    """Those of the objects that fit into `room` bytes together, as they come."""
    found, total = {}, 0
    for object_id, content in contents:
        if total + len(content) <= room:
            found[object_id] = content
            total += len(content)
    return found


def _length(content: bytes) -> bytes:
    return len(content).to_bytes(_LENGTH, "big")


def _block(view: memoryview, offset: int) -> tuple[bytes, int]:
    begin = offset + _LENGTH
    end = begin + int.from_bytes(view[offset:begin], "big")
    if begin > len(view) or end > len(view):
        raise ValueError("a parcel that ends within a block")
    return bytes(view[begin:end]), end

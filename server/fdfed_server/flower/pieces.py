"""A reply whose large arrays go to disk piece by piece as they arrive.

Flower cuts an array into chunks, fetches all of them, joins them and copies the result: three times
the reply in memory, beside the sum that it is to enter. Here each chunk is written to an unnamed
file when it comes, and the array is what reads from there (`fdfed.wire.SpooledBytes`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import InflatableObject
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fdfed.errors import WireError
from fdfed.files import strict_json
from fdfed.wire import Extent, Spool, SpooledBytes, check_expansion, chunks_of, unbundled

_CHUNK: Final = b"ArrayChunk "
_ARRAY: Final = b"Array "
_HEAD_END: Final = b"\x00"
_SPOOLED_FROM: Final = 64 * 1024
"""Bytes of a chunk; smaller ones are of vectors and stay in memory."""


class Pieces:
    """The objects of one reply.

    Args:
        pull: fetches one object, as Flower deflates it.
        folder: where large arrays are put; None is the system's for temporary files.
    """

    def __init__(self, pull: Callable[[str], bytes], *, folder: Path | None) -> None:
        self._pull = pull
        self._folder = folder
        self._lock = threading.Lock()
        self._made: Spool | None = None
        self._extents: dict[str, Extent] = {}

    def pull(self, object_id: str) -> bytes:
        """Fetches an object, and keeps its content if it is a large chunk; else it is the caller's.
        Safe to call from several threads."""
        content = self._pull(object_id)
        if not content.startswith(_CHUNK) or len(content) < _SPOOLED_FROM:
            return content
        body = memoryview(content)[content.index(_HEAD_END) + 1 :]
        extent = self._spool().add(body)
        with self._lock:
            self._extents[object_id] = extent
        return b""

    def put_together(self, message_id: str, contents: dict[str, bytes], *, limit: int) -> Message:
        """The message.

        Args:
            contents: what `pull` gave, by object.
            limit: of the bytes that its arrays may hold.

        Raises:
            TypeError: if it is no message.
            WireError: if its arrays would hold more, or one is not what it says.
        """
        kept = unbundled({k: v for k, v in contents.items() if k not in self._extents})
        contents.clear()
        lengths = {key: extent.length for key, extent in self._extents.items()}
        check_expansion(kept, limit=limit, elsewhere=lengths)
        arrays: dict[str, InflatableObject] = {}
        places: dict[bytes, SpooledBytes] = {}
        for key, content in kept.items():
            if content.startswith(_ARRAY):
                chunks = chunks_of(content, kept.keys() | self._extents.keys())
                if chunks and all(chunk in self._extents for chunk in chunks):
                    # Flower's records copy what they are made of: the place is marked until then.
                    mark = key.encode()
                    arrays[key] = _described(content, mark)
                    extents = [self._extents[chunk] for chunk in chunks]
                    places[mark] = SpooledBytes(self._spool(), extents)
        message = _is_message(inflate_object_from_contents(message_id, kept, objects=arrays))
        if message.has_content():
            _place(message.content, places)
        return message

    def _spool(self) -> Spool:
        with self._lock:
            if self._made is None:
                self._made = Spool(self._folder)
            return self._made


def _described(content: bytes, data: bytes) -> Array:
    body = strict_json.loads(content.partition(_HEAD_END)[2], source="an array's description")
    try:
        return Array(
            dtype=str(body["dtype"]),
            shape=tuple(int(side) for side in body["shape"]),
            stype=str(body["stype"]),
            data=data,
        )
    except (LookupError, TypeError, ValueError) as err:
        raise WireError("an array does not say what it is") from err


def _place(content: RecordDict, places: Mapping[bytes, SpooledBytes]) -> None:
    for record in content.values():
        if isinstance(record, ArrayRecord):
            for array in record.values():
                if array.data in places:
                    # Past Flower's setter, which is for bytes alone.
                    array.__dict__["data"] = places[array.data]


def _is_message(found: InflatableObject) -> Message:
    if not isinstance(found, Message):
        raise TypeError(f"a {type(found).__name__} came where a Message was announced")
    return found

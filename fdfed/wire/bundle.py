"""The small objects of a message as one.

Flower makes an object of every record, array and chunk; its server keeps each in rows of several
tables, and takes longer over that than over their bytes. So all but the message itself and what is
large travel as one object more, in the form of a chunk, which holds a parcel of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, Protocol, runtime_checkable

from fdfed.errors import WireError
from fdfed.wire.parcel import Parcel, fill

_BUNDLE_BYTES: Final = 48 * 1024
"""Most bytes of objects in a bundle: less than is put on disk when it arrives."""
_CHUNK: Final = b"ArrayChunk "
_HEAD_END: Final = b"\x00"
_MARK: Final = b"fdfed small objects"
_BEGIN: Final = len(_MARK).to_bytes(4, "big") + _MARK


@runtime_checkable
class Deflatable(Protocol):
    """An object of Flower's, or a bundle."""

    def deflate(self) -> bytes:
        """Its bytes."""


class _Bundle:
    def __init__(self, objects: Mapping[str, bytes]) -> None:
        body = Parcel(_MARK, objects).SerializeToString()
        self._content = b"%b %d%b%b" % (_CHUNK, len(body), _HEAD_END, body)

    def deflate(self) -> bytes:
        return self._content


def bundled(parts: Mapping[str, Deflatable], root: str) -> dict[str, Deflatable]:
    """The objects of a message as they travel: the message `root` first.

    Args:
        parts: all of them, by id.
    """
    others = [(key, part) for key, part in parts.items() if key != root and not _is_large(part)]
    small = fill(sorted(_deflated(others), key=lambda item: len(item[1])), _BUNDLE_BYTES)
    found: dict[str, Deflatable] = {root: parts[root]}
    if len(small) > 1:
        bundle = _Bundle(small)
        found[hashlib.sha256(bundle.deflate()).hexdigest()] = bundle
    else:
        small = {}
    return found | {key: part for key, part in parts.items() if key != root and key not in small}


def unbundled(contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """The objects of a message as they were, by id.

    Raises:
        WireError: if a bundle is none, or holds an object under the id of another: only where ids
            are hashes can no object be a part of itself.
    """
    found: dict[str, bytes] = {}
    for key, content in contents.items():
        body = memoryview(content)[content.find(_HEAD_END, 0, 64) + 1 :]
        if content.startswith(_CHUNK) and body[: len(_BEGIN)] == _BEGIN:
            found |= _opened(body)
        else:
            found[key] = content
    return found


def _opened(body: memoryview) -> dict[str, bytes]:
    parcel = Parcel()
    try:
        parcel.ParseFromString(body)
    except ValueError as err:
        raise WireError(f"the small objects of a message cannot be read: {err}") from err
    for key, content in parcel.objects.items():
        if hashlib.sha256(content).hexdigest() != key:
            raise WireError("an object of a message is not what its id says")
    return parcel.objects


def _is_large(part: Any) -> bool:
    # Only to see how large it is, it need not be copied.
    return type(part).__name__ == "ArrayChunk" and len(part.data) > _BUNDLE_BYTES


def _deflated(parts: list[tuple[str, Deflatable]]) -> list[tuple[str, bytes]]:
    return [(key, part.deflate()) for key, part in parts]

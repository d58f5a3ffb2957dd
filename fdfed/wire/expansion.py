"""How large a message becomes when Flower puts its objects together again.

Flower sends an array as a list of numbers that point at chunks, and a chunk that repeats travels
once. A few kilobytes that point at one chunk a million times would fill the receiver's memory, so
the sum is taken before anything is put together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fdfed import strict_json
from fdfed.errors import InvalidInput, WireError

_ARRAY: Final = b"Array "
_HEAD_END: Final = b"\x00"
_MAX_BODY: Final = 64 * 1024
"""Of the list of an array's chunks; they are of 5 MiB, and a gigabyte's list has a kilobyte."""


def check_expansion(contents: Mapping[str, bytes], *, limit: int) -> None:
    """Refuses the objects of a message whose arrays would hold more than `limit` bytes in all.

    Args:
        contents: each object as Flower deflates it (`type children length`, a zero byte, the body),
            by its id.

    Raises:
        WireError: if they would, or an array does not say what it is made of.
    """
    total = 0
    for content in contents.values():
        if content.startswith(_ARRAY):
            total += _array_bytes(content, contents)
            if total > limit:
                raise WireError(
                    f"the arrays of a message would take more than {limit} bytes of memory"
                )


def _array_bytes(content: bytes, contents: Mapping[str, bytes]) -> int:
    head, _, body = content.partition(_HEAD_END)
    if len(body) > _MAX_BODY:
        raise WireError(f"the list of an array's chunks has {len(body)} bytes, over {_MAX_BODY}")
    try:
        _, children, _ = head.decode("ascii").split(" ")
        numbers = _chunk_numbers(strict_json.loads(body, source="the list of an array's chunks"))
        ids = children.split(",")
        return sum(len(contents[ids[number]]) for number in numbers)
    except (ValueError, LookupError) as err:
        raise WireError("an array does not say of which chunks it is made") from err


def _chunk_numbers(body: Any) -> list[int]:
    numbers = body["arraychunk_ids"] if isinstance(body, dict) else None
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise InvalidInput("its chunks are not numbered")
    return numbers

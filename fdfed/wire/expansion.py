"""How large a message becomes when Flower puts its objects together again.

Flower sends an array as a list of numbers that point at chunks, and a chunk that repeats travels
once. A few kilobytes that point at one chunk a million times would fill the receiver's memory, so
the sum is taken before anything is put together.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, Final

from fdfed.errors import InvalidInput, WireError
from fdfed.files import strict_json

_ARRAY: Final = b"Array "
_HEAD_END: Final = b"\x00"
_MAX_BODY: Final = 64 * 1024
"""Of the list of an array's chunks; they are of 5 MiB, and a gigabyte's list has a kilobyte."""


def check_expansion(
    contents: Mapping[str, bytes], *, limit: int, elsewhere: Mapping[str, int] | None = None
) -> None:
    """Refuses the objects of a message whose arrays would hold more than `limit` bytes in all.

    Args:
        contents: each object as Flower deflates it (`type children length`, a zero byte, the body),
            by its id.
        elsewhere: lengths of chunks that are not kept in `contents`.

    Raises:
        WireError: if they would, or an array does not say what it is made of.
    """
    total, lengths = 0, {key: len(content) for key, content in contents.items()}
    lengths |= elsewhere or {}
    for content in contents.values():
        if content.startswith(_ARRAY):
            total += sum(lengths_of_chunks(content, lengths))
            if total > limit:
                raise WireError(
                    f"the arrays of a message would take more than {limit} bytes of memory"
                )


def lengths_of_chunks(content: bytes, lengths: Mapping[str, int]) -> list[int]:
    """The length of each chunk of an array, in order."""
    return [lengths[chunk] for chunk in chunks_of(content, lengths)]


def chunks_of(content: bytes, known: Container[str]) -> list[str]:
    """The ids of the chunks that a deflated array is made of, in order; one may come twice.

    Args:
        known: ids of the objects that came.

    Raises:
        WireError: if it does not say, or names one that is not there.
    """
    head, _, body = content.partition(_HEAD_END)
    if len(body) > _MAX_BODY:
        raise WireError(f"the list of an array's chunks has {len(body)} bytes, over {_MAX_BODY}")
    try:
        _, children, _ = head.decode("ascii").split(" ")
        numbers = _chunk_numbers(strict_json.loads(body, source="the list of an array's chunks"))
        ids = children.split(",")
        found = [ids[number] for number in numbers]
    except (ValueError, LookupError) as err:
        raise WireError("an array does not say of which chunks it is made") from err
    if not all(chunk in known for chunk in found):
        raise WireError("an array does not say of which chunks it is made that came")
    return found


def _chunk_numbers(body: Any) -> list[int]:
    numbers = body["arraychunk_ids"] if isinstance(body, dict) else None
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise InvalidInput("its chunks are not numbered")
    return numbers

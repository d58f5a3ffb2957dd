"""A message is as large as its arrays will be in memory, however little of it travelled."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fdfed.errors import WireError
from fdfed.wire import check_expansion

CHUNK = 5 << 20
"""Flower's."""


def objects_of(array: np.ndarray) -> dict[str, bytes]:
    parts = RecordDict({"weights": ArrayRecord({"packed": Array(array)})})
    return {key: part.deflate() for key, part in get_all_nested_objects(parts).items()}


def array_of(body: object, children: str = "c") -> dict[str, bytes]:
    text = body if isinstance(body, str) else json.dumps(body)
    return {"a": f"Array {children} {len(text)}\x00{text}".encode(), "c": b"ArrayChunk  3\x00abc"}


def test_zeros_travel_as_one_chunk_and_count_as_what_they_fill() -> None:
    contents = objects_of(np.zeros(4 * CHUNK, dtype=np.uint8))
    assert sum(map(len, contents.values())) < 3 * CHUNK, "the same chunk travels once"
    check_expansion(contents, limit=5 * CHUNK)
    with pytest.raises(WireError, match=f"more than {3 * CHUNK} bytes of memory"):
        check_expansion(contents, limit=3 * CHUNK)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[" * 50_000,
        [],
        {},
        {"arraychunk_ids": None},
        {"arraychunk_ids": ["0"]},
        {"arraychunk_ids": [1]},
        {"arraychunk_ids": [10**30]},
    ],
)
def test_an_array_that_does_not_say_what_it_is_made_of_is_refused(body: object) -> None:
    with pytest.raises(WireError, match="of which chunks"):
        check_expansion(array_of(body), limit=100)


def test_an_array_of_a_chunk_that_did_not_come_is_refused() -> None:
    with pytest.raises(WireError, match="of which chunks"):
        check_expansion(array_of({"arraychunk_ids": [0]}, children="other"), limit=100)


def test_a_list_of_chunks_that_is_itself_too_long_is_refused_unread() -> None:
    with pytest.raises(WireError, match="has 300023 bytes, over 65536"):
        check_expansion(array_of('{"arraychunk_ids": [0' + ",00" * 100_000 + "]}"), limit=2**60)

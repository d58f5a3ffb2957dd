"""The small objects of a message travel as one, and come out as they were."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    validate_object_content,
)

from fdfed.errors import WireError
from fdfed.wire import Parcel, bundled, unbundled

MARK = b"fdfed small objects"
RECORD = RecordDict(
    {
        "c": ConfigRecord({"x": 1}),
        "v": ArrayRecord({name: Array(np.arange(n)) for n, name in enumerate("abcd")}),
        "w": ArrayRecord({"packed": Array(np.arange(20_000.0))}),
    }
)


def _bundle(objects: dict[str, bytes], end: int | None = None) -> dict[str, bytes]:
    body = Parcel(MARK, objects).SerializeToString()[:end]
    return {"b" * 64: b"ArrayChunk  %d\x00%b" % (len(body), body)}


def test_a_record_of_many_objects_travels_as_three_and_comes_back() -> None:
    parts = get_all_nested_objects(RECORD)
    travelling = bundled(parts, RECORD.object_id)
    assert (len(parts), len(travelling)) == (14, 3)
    contents = {key: part.deflate() for key, part in travelling.items()}
    for content in contents.values():
        validate_object_content(content)  # Flower's server looks at each
    found = unbundled(contents)
    assert found.keys() == parts.keys()
    assert inflate_object_from_contents(RECORD.object_id, found) == RECORD


def test_what_is_alone_or_too_large_travels_as_itself() -> None:
    for record in (RecordDict(), RecordDict({"c": ConfigRecord({"x": "y" * 100_000})})):
        parts = get_all_nested_objects(record)
        assert bundled(parts, record.object_id).keys() == parts.keys()


def test_an_object_under_the_id_of_another_is_refused() -> None:
    with pytest.raises(WireError, match="not what its id says"):
        unbundled(_bundle({"a" * 64: b"RecordDict b 0\x00", "b" * 64: b"RecordDict a 0\x00"}))


def test_a_bundle_that_is_cut_short_is_refused() -> None:
    with pytest.raises(WireError, match="cannot be read"):
        unbundled(_bundle({"a" * 64: b"content"}, end=-1))

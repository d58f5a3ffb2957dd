"""JSON from others: one value, or one kind of error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdfed.errors import InvalidInput
from fdfed.files import strict_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=VALUES)
def test_whatever_json_can_hold_reads_back_as_it_was(value: object) -> None:
    assert strict_json.loads(json.dumps(value), source="it") == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "property name"),
        (b"\xff\xfe\x00", "decode"),
        ("[" * 100_000, "recursion"),
        ("9" * 5_000, "4300"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "one key twice"),
        ('{"a": 1, "\\u0061": 2}', "one key twice"),
    ],
    ids=["cut", "no text", "deep", "long", "twice", "twice, escaped"],
)
def test_what_is_no_json_or_means_two_things_is_refused_by_its_name(
    text: str | bytes, reason: str
) -> None:
    with pytest.raises(InvalidInput, match=rf"the letter is not valid JSON: .*{reason}"):
        strict_json.loads(text, source="the letter")

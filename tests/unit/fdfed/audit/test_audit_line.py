"""What is no line of an audit log, and no head of one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.audit.line import _HEAD_LABEL, _LINE_LABEL, Head, _signed, public_text, read_line
from fdfed.errors import InvalidInput

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(b"a" * 32)
LINE = {"number": 1, "time": "t", "direction": "out", "kind": "trained", "previous": "0" * 64}


def signed(values: dict[str, Any], label: bytes = _LINE_LABEL) -> bytes:
    return _signed(json.dumps(values).encode()[:-1], KEY, label)


def test_a_line_says_by_whom_it_is_signed() -> None:
    line = read_line(signed(LINE))
    assert line.is_signed_by(public_text(KEY))
    assert not line.is_signed_by("0" * 64)
    assert not line.is_signed_by("no key")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "does not end with a signature"),
        (signed(LINE)[:-1], "does not end with a signature"),
        (b'{"number' + signed(LINE)[-145:], "is not JSON"),
        (signed(LINE | {"number": True}), "lacks a number"),
        (signed(LINE | {"number": 0}), "lacks a number"),
        (signed(LINE | {"kind": None}), "lacks a number"),
        (signed(LINE | {"previous": "0" * 63}), "does not name the line before"),
        (signed(LINE | {"previous": 1}), "does not name the line before"),
    ],
)
def test_what_is_no_line_is_refused_by_what_it_lacks(line: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        read_line(line)


@pytest.mark.parametrize(
    ("values", "label", "reason"),
    [
        ({"number": 1, "hash": "h"}, _LINE_LABEL, "is not signed by the key"),
        ({"number": 1}, _HEAD_LABEL, "is not a head"),
        ({"number": "1", "hash": "h"}, _HEAD_LABEL, "is not a head"),
    ],
)
def test_what_is_no_head_is_refused(values: dict[str, Any], label: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        Head.from_text(signed(values, label), public_text(KEY))

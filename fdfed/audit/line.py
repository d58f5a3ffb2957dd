"""One line of an audit log, and the head that says which line is the last.

A line is a JSON object that ends with its own signature:

    {"number":7,"time":"…","direction":"out","kind":"trained",…,"previous":"<hash>","signature":"…"}

`previous` is the SHA-256 of the whole line before it; the signature (Ed25519) is over all that
stands before it. So no line can be edited, removed, moved, repeated or added by whoever has not the
key. Only the end is open: the head, signed too and replaced at each line, says where it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.errors import InvalidInput

Direction = Literal["in", "out", "here"]
"""`here`: nothing crossed; the log, or the agent, speaks of itself."""

FIRST: Final = "0" * 64
"""The hash that the first line names as its predecessor's."""

_LINE_LABEL: Final = b"fdfed audit line 1\n"
_HEAD_LABEL: Final = b"fdfed audit head 1\n"
_SIGNED: Final = re.compile(rb'(\{.*),"signature":"([0-9a-f]{128})"\}', re.DOTALL)
_OWN: Final = frozenset({"number", "time", "direction", "kind", "previous", "signature"})
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was read; its signature is not checked yet."""

    number: int
    previous: str
    values: Mapping[str, Any]
    hash: str
    signed: bytes
    signature: bytes

    def is_signed_by(self, public_key: str) -> bool:
        """Whether the key, in hexadecimal, made the signature."""
        return _verifies(public_key, self.signature, _LINE_LABEL + self.signed)


@dataclass(frozen=True, slots=True)
class Head:
    """Which line was the last, and its hash."""

    number: int
    hash: str

    def to_text(self, key: ed25519.Ed25519PrivateKey) -> bytes:
        """The content of the head's file."""
        body = json.dumps({"number": self.number, "hash": self.hash}, separators=(",", ":"))
        return _signed(body.encode()[:-1], key, _HEAD_LABEL) + b"\n"

    @classmethod
    def from_text(cls, text: bytes, public_key: str) -> Head:
        """The head in `text`.

        Raises:
            InvalidInput: if it is none, or not signed by the key.
        """
        signed, signature = _split(text.removesuffix(b"\n"))
        if not _verifies(public_key, signature, _HEAD_LABEL + signed):
            raise InvalidInput("is not signed by the key of the log")
        values = _object(signed)
        if set(values) != {"number", "hash"} or not isinstance(values["number"], int):
            raise InvalidInput("is not a head")
        return cls(values["number"], str(values["hash"]))


def hash_of(line: bytes) -> str:
    """What the line after `line` names as its predecessor."""
    return hashlib.sha256(line).hexdigest()


def write_line(
    direction: Direction,
    kind: str,
    details: Mapping[str, str | int | float | None],
    *,
    number: int,
    previous: str,
    key: ed25519.Ed25519PrivateKey,
) -> bytes:
    """The line, without its end. What has no value is left out.

    Raises:
        ValueError: if a detail has the name of one of the line's own parts.
    """
    if taken := _OWN & details.keys():
        raise ValueError(f"details of an audit line cannot be called {', '.join(sorted(taken))}")
    values: dict[str, Any] = {
        "number": number,
        "time": datetime.now(UTC).isoformat(),
        "direction": direction,
        "kind": kind,
        **{name: value for name, value in details.items() if value is not None},
        "previous": previous,
    }
    body = json.dumps(values, separators=(",", ":"), allow_nan=False).encode()
    return _signed(body[:-1], key, _LINE_LABEL)


def read_line(line: bytes) -> Line:
    """The line in these bytes, which may be a stranger's.

    Raises:
        InvalidInput: if it is not a line of an audit log.
    """
    signed, signature = _split(line)
    values = _object(signed)
    number, previous = values.get("number"), values.get("previous")
    texts = all(isinstance(values.get(name), str) for name in ("time", "direction", "kind"))
    if not isinstance(number, int) or isinstance(number, bool) or number < 1 or not texts:
        raise InvalidInput("lacks a number, a time, a direction or a kind")
    if not isinstance(previous, str) or not _HASH.fullmatch(previous):
        raise InvalidInput("does not name the line before it")
    return Line(number, previous, values, hash_of(line), signed, signature)


def public_text(key: ed25519.Ed25519PrivateKey) -> str:
    """The key's public half, in hexadecimal."""
    return key.public_key().public_bytes_raw().hex()


def _signed(body: bytes, key: ed25519.Ed25519PrivateKey, label: bytes) -> bytes:
    return body + b',"signature":"' + key.sign(label + body).hex().encode() + b'"}'


def _split(text: bytes) -> tuple[bytes, bytes]:
    found = _SIGNED.fullmatch(text)
    if found is None:
        raise InvalidInput("does not end with a signature")
    return found[1], bytes.fromhex(found[2].decode())


def _object(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body + b"}")
    except (ValueError, RecursionError) as err:
        raise InvalidInput("is not JSON") from err
    if not isinstance(values, dict):
        raise InvalidInput("is not a JSON object")
    return values


def _verifies(public_key: str, signature: bytes, message: bytes) -> bool:
    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(signature, message)
    except (ValueError, InvalidSignature):
        return False
    return True

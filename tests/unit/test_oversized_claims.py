"""What claims to be larger than it is, is refused before memory is set aside for it."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from fdfed.exchange import exchange_pb2 as pb
from fdfed.exchange.frames import MAX_ELEMENTS
from tests.fuzz.targets import TARGETS
from tests.fuzz.targets.records import MESSAGES, record_bytes

MEGABYTE = 1 << 20


def _npy(shape: str, data: bytes = b"") -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def _vector(content: bytes) -> bytes:
    number = next(n for n, kind in enumerate(MESSAGES) if kind.__name__ == "EvaluateResult")
    data = (TARGETS["record"].seeds()[1])[1:]
    parts = _record(data)
    parts["vectors"]["dice"].data = content
    return record_bytes(number, parts)


def _record(data: bytes) -> Any:
    from flwr.common.serde import recorddict_from_proto
    from flwr.proto.recorddict_pb2 import RecordDict

    return recorddict_from_proto(RecordDict.FromString(data))


def _tensors(head: dict[str, Any]) -> bytes:
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text


def _png(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def _repeated_chunk(times: int) -> bytes:
    chunk = b"ArrayChunk  1048576\x00" + bytes(MEGABYTE)
    body = json.dumps(
        {"dtype": "uint8", "shape": [1], "stype": "numpy.ndarray", "arraychunk_ids": [0] * times}
    )
    array = f"Array {'c' * 64} {len(body)}\x00{body}".encode()
    ids = (("a" * 64, array), ("c" * 64, chunk))
    return b"".join(name.encode() + len(c).to_bytes(4, "big") + c for name, c in ids)


def _many_elements() -> bytes:
    payload = pb.PrototypePayload(vector=bytes(8 * (MAX_ELEMENTS + 2)), valid=b"\x01")
    sent = pb.Prototypes(element_type=2, payload=payload.SerializeToString())
    return pb.SiteContent(prototypes=sent).SerializeToString()


CLAIMS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a vector of 8 TB": ("record", lambda: _vector(_npy("(1000000000000,)"))),
    "a vector of 4 GB behind an array's header": (
        "weights",
        lambda: b'[["w","float64",[500000000]]]\n' + _npy("(500000000,)"),
    ),
    "a tensor with more sides than can be multiplied": (
        "weights",
        lambda: json.dumps([["w", "float32", [2**31] * 300_000]]).encode() + b"\n" + _npy("(0,)"),
    ),
    "an empty tensor with sides that no array has": (
        "weights",
        lambda: json.dumps([["w", "float32", [0, 2**31, 2**31]]]).encode() + b"\n" + _npy("(0,)"),
    ),
    "an array of one chunk a thousand times": ("flower-objects", lambda: _repeated_chunk(1000)),
    "an array with a list of a million chunks": ("flower-objects", lambda: _repeated_chunk(10**6)),
    "a frame beyond the most elements": ("exchange-prototypes", _many_elements),
    "a sealed frame of 4 GB": (
        "exchange-sealed",
        lambda: pb.SiteFrame(sealed=pb.Sealed(length=2**32 - 1, body=b"x")).SerializeToString(),
    ),
    "a header of 2⁶³ bytes": ("model-file", lambda: struct.pack("<Q", 2**63) + b"{}"),
    "a tensor beyond the end of its file": (
        "site-state",
        lambda: _tensors(
            {
                "__metadata__": {"phase": "1"},
                "w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
            }
        ),
    ),
    "a picture of 60000 × 60000": ("picture", lambda: _png(60_000)),
    "a picture of 9000 × 9000, which Pillow would read": ("picture", lambda: _png(9_000)),
}


@pytest.mark.bad_input
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("target", "make"), CLAIMS.values(), ids=CLAIMS)
def test_a_claim_costs_no_more_memory_than_a_few_times_its_own_bytes(
    target: str, make: Callable[[], bytes]
) -> None:
    data = make()
    TARGETS[target].accepts(TARGETS[target].seeds()[0])  # what is imported late is imported now
    tracemalloc.start()
    try:
        assert not TARGETS[target].accepts(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MEGABYTE + 8 * len(data)

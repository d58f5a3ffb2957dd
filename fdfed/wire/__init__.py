"""Every Flower record that crosses between coordinator and site: one frozen dataclass a message.

The only folder of `fdfed` that imports Flower. `to_record` builds a `RecordDict`; `from_record`
treats its input as a stranger's: the format version, the exact keys, types, ranges, dtypes and
finiteness are checked before any value is used, and whatever does not fit is a `WireError`.
No key string and no Flower record is built anywhere else.

A record holds at most these parts:

    "fdfed"    ConfigRecord   format, kind, and the message's scalars and texts
    "vectors"  ArrayRecord    small float64 arrays, one entry a tap
    "weights"  ArrayRecord    one array: the tensors of the network, packed; the header lists them
    "masked"   ArrayRecord    one array: the integers that a site adds to a masked sum
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fdfed.process import lazy

if TYPE_CHECKING:
    from fdfed.wire.bundle import Deflatable, bundled, unbundled
    from fdfed.wire.changes import HalfPrecision, RestoredWeights, changes_of
    from fdfed.wire.expansion import check_expansion, chunks_of
    from fdfed.wire.headers import PROTOCOL_HEADER, ROOM_HEADER
    from fdfed.wire.masked import MaskedResult, Ready, ReadyRequest
    from fdfed.wire.messages import (
        EvaluateInstruction,
        EvaluateResult,
        Prepare,
        Prepared,
        RosterInForce,
        RosterRelay,
        SecretOffer,
        SecretRequest,
        TrainInstruction,
        TrainResult,
    )
    from fdfed.wire.parcel import PARCEL_BYTES, Parcel, fill
    from fdfed.wire.record import FORMAT, Part, caption, footprint, has_tensors, without_weights
    from fdfed.wire.spoken import SPOKEN
    from fdfed.wire.spooled import Extent, Spool, SpooledBytes
    from fdfed.wire.weights import Blockwise, Integers, Weights

__all__ = [
    "FORMAT",
    "PARCEL_BYTES",
    "PROTOCOL_HEADER",
    "ROOM_HEADER",
    "SPOKEN",
    "Blockwise",
    "Deflatable",
    "EvaluateInstruction",
    "EvaluateResult",
    "Extent",
    "HalfPrecision",
    "Integers",
    "MaskedResult",
    "Parcel",
    "Part",
    "Prepare",
    "Prepared",
    "Ready",
    "ReadyRequest",
    "RestoredWeights",
    "RosterInForce",
    "RosterRelay",
    "SecretOffer",
    "SecretRequest",
    "Spool",
    "SpooledBytes",
    "TrainInstruction",
    "TrainResult",
    "Weights",
    "bundled",
    "caption",
    "changes_of",
    "check_expansion",
    "chunks_of",
    "fill",
    "footprint",
    "has_tensors",
    "unbundled",
    "without_weights",
]

__getattr__ = lazy.exports(
    __name__,
    {
        "bundle": ("Deflatable", "bundled", "unbundled"),
        "changes": ("HalfPrecision", "RestoredWeights", "changes_of"),
        "expansion": ("check_expansion", "chunks_of"),
        "masked": ("MaskedResult", "Ready", "ReadyRequest"),
        "messages": (
            "EvaluateInstruction",
            "EvaluateResult",
            "Prepare",
            "Prepared",
            "RosterInForce",
            "RosterRelay",
            "SecretOffer",
            "SecretRequest",
            "TrainInstruction",
            "TrainResult",
        ),
        "parcel": ("PARCEL_BYTES", "Parcel", "fill"),
        "record": ("FORMAT", "Part", "caption", "footprint", "has_tensors", "without_weights"),
        "headers": ("PROTOCOL_HEADER", "ROOM_HEADER"),
        "spoken": ("SPOKEN",),
        "spooled": ("Extent", "Spool", "SpooledBytes"),
        "weights": ("Blockwise", "Integers", "Weights"),
    },
)

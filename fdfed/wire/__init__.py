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

from fdfed.wire.expansion import check_expansion, chunks_of
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
from fdfed.wire.record import FORMAT, Part, caption, footprint, has_tensors, without_weights
from fdfed.wire.spoken import PROTOCOL_HEADER, SPOKEN
from fdfed.wire.spooled import Extent, Spool, SpooledBytes
from fdfed.wire.weights import Integers, Weights

__all__ = [
    "FORMAT",
    "PROTOCOL_HEADER",
    "SPOKEN",
    "EvaluateInstruction",
    "EvaluateResult",
    "Extent",
    "Integers",
    "MaskedResult",
    "Part",
    "Prepare",
    "Prepared",
    "Ready",
    "ReadyRequest",
    "RosterInForce",
    "RosterRelay",
    "SecretOffer",
    "SecretRequest",
    "Spool",
    "SpooledBytes",
    "TrainInstruction",
    "TrainResult",
    "Weights",
    "caption",
    "check_expansion",
    "chunks_of",
    "footprint",
    "has_tensors",
    "without_weights",
]

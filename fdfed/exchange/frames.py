"""The two frames of the exchange, and their form on the wire.

A frame is checked when it is made (structure) and when it crosses the wire in either direction
(numbers): nothing that is not finite, bounded and of a stated shape gets past this module.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from fdfed.exchange import exchange_pb2 as pb
from fdfed.exchange.codes import ExchangeCode, FrameRefused

PROTOCOL_VERSION: Final = 2
INSECURE_SITE_HEADER: Final = "fdfed-insecure-site"
"""Metadata key that names the site where there is no certificate: in tests without TLS alone."""
MAX_TAPS: Final = 256
MAX_ELEMENTS: Final = 1 << 18
"""Elements of a vector; the largest network here has 5,888. Keeps a frame below 2.1 MiB in fp64."""
MAX_MESSAGE_BYTES: Final = 4 << 20
"""A frame of MAX_ELEMENTS in fp64 is 2 MiB; the rest is room for terms and for sealing."""
MAX_MAGNITUDE: Final = 1e12
"""Of any element. Squared distances then stay below 4e24 per channel, so that no site's numbers
can overflow what the others get back, not even in fp32."""
MAX_RUN_ID: Final = 128
MAX_COUNTER: Final = 2**31 - 1

_TYPES: Final[dict[np.dtype[Any], pb.ElementType]] = {
    np.dtype("<f4"): pb.ELEMENT_TYPE_FLOAT32,
    np.dtype("<f8"): pb.ELEMENT_TYPE_FLOAT64,
}
_DTYPES: Final[dict[int, np.dtype[Any]]] = {number: dtype for dtype, number in _TYPES.items()}

Vector = NDArray[Any]
"""fp32 or fp64, which is checked when a frame is made."""


@dataclass(frozen=True, slots=True)
class StepKey:
    """Which step of which attempt at which round of which run; counters from 0."""

    run_id: str
    server_round: int
    attempt: int
    step: int

    def __post_init__(self) -> None:
        if not (0 < len(self.run_id) <= MAX_RUN_ID and self.run_id.isprintable()):
            raise FrameRefused(ExchangeCode.MALFORMED, "run_id is empty, too long or not printable")
        for name in ("server_round", "attempt", "step"):
            if not 0 <= getattr(self, name) <= MAX_COUNTER:
                raise FrameRefused(ExchangeCode.MALFORMED, f"{name} is not in [0, {MAX_COUNTER}]")

    def to_proto(self) -> pb.StepKey:
        """The key's form on the wire."""
        return pb.StepKey(
            run_id=self.run_id,
            server_round=self.server_round,
            attempt=self.attempt,
            step=self.step,
        )

    @classmethod
    def from_proto(cls, message: pb.StepKey) -> StepKey:
        """The key in a stranger's message.

        Raises:
            FrameRefused: if a part is out of range.
        """
        return cls(message.run_id, message.server_round, message.attempt, message.step)


@dataclass(frozen=True, slots=True, eq=False)
class PrototypeFrame:
    """What a site sends at one step: the batch means of its prototypes."""

    key: StepKey
    vector: Vector
    """`(size,)`, in the order of the round's `TapLayout`; fp32, or fp64 in exactness tests."""
    valid: NDArray[np.bool_]
    """`(taps,)`: whether the batch had foreground and background at that tap. Where it had not,
    the numbers count for nothing, but are finite all the same."""

    def __post_init__(self) -> None:
        _check_vector(self.vector)
        if self.valid.dtype != np.bool_ or self.valid.ndim != 1 or self.valid.size > MAX_TAPS:
            raise FrameRefused(
                ExchangeCode.WRONG_SHAPE,
                f"valid is {self.valid.dtype}{self.valid.shape}, not bool (taps,)",
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers alone."""
        return self.vector.nbytes + self.valid.nbytes

    def check_numbers(self) -> None:
        """Raises FrameRefused if an element is not finite or beyond MAX_MAGNITUDE."""
        _check_numbers(self.vector)

    def to_proto(self) -> pb.Prototypes:
        """The frame's form on the wire.

        Raises:
            FrameRefused: if a number may not be sent.
        """
        self.check_numbers()
        payload = pb.PrototypePayload(vector=_to_bytes(self.vector), valid=self.valid.tobytes())
        return pb.Prototypes(
            key=self.key.to_proto(),
            element_type=_TYPES[self.vector.dtype.newbyteorder("<")],
            payload=payload.SerializeToString(),
        )

    @classmethod
    def from_proto(cls, message: pb.Prototypes) -> PrototypeFrame:
        """The frame in a stranger's message; its vector is a read-only view of those bytes.

        Raises:
            FrameRefused: with the code of the first condition that does not hold.
        """
        payload = _parse(pb.PrototypePayload(), message.payload)
        valid = np.frombuffer(payload.valid, np.uint8)
        if valid.size and int(valid.max()) > 1:
            raise FrameRefused(ExchangeCode.MALFORMED, "a validity byte is neither 0 nor 1")
        frame = cls(
            key=StepKey.from_proto(message.key),
            vector=_from_bytes(payload.vector, message.element_type),
            valid=valid.view(np.bool_),
        )
        frame.check_numbers()
        return frame


@dataclass(frozen=True, slots=True, eq=False)
class CotangentFrame:
    """What the hub answers: the derivative of the cross-site terms at this site's prototypes."""

    key: StepKey
    vector: Vector
    """`(size,)`: ∂L_exch,l/∂(F_l, B_l), unscaled by α; order and type of the prototypes."""
    pair_terms: NDArray[np.float64]
    """`(taps,)`: L_exch,l, the mean over unordered valid pairs; NaN where fewer than two sites
    are valid."""
    site_terms: NDArray[np.float64]
    """`(taps,)`: the mean over this site's valid peers; NaN where it has none."""
    peers: int
    """How many other sites were in the computation."""

    def __post_init__(self) -> None:
        _check_vector(self.vector)
        taps = self.pair_terms.shape
        for terms in (self.pair_terms, self.site_terms):
            if terms.dtype != np.float64 or terms.ndim != 1 or not 0 < terms.size <= MAX_TAPS:
                raise FrameRefused(
                    ExchangeCode.WRONG_SHAPE,
                    f"terms are {terms.dtype}{terms.shape}, not float64 (taps,)",
                )
        if self.site_terms.shape != taps:
            raise FrameRefused(ExchangeCode.WRONG_SHAPE, "pair and site terms differ in length")
        if not 0 <= self.peers <= MAX_COUNTER:
            raise FrameRefused(ExchangeCode.MALFORMED, "the number of peers is out of range")

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers alone."""
        return self.vector.nbytes + self.pair_terms.nbytes + self.site_terms.nbytes

    def check_numbers(self) -> None:
        """Raises FrameRefused if a cotangent is not finite, or a term is infinite."""
        _check_numbers(self.vector)
        if np.isinf(self.pair_terms).any() or np.isinf(self.site_terms).any():
            raise FrameRefused(ExchangeCode.NOT_FINITE, "a term is infinite")

    def to_proto(self) -> pb.Cotangents:
        """The frame's form on the wire.

        Raises:
            FrameRefused: if a number may not be sent.
        """
        self.check_numbers()
        payload = pb.CotangentPayload(
            vector=_to_bytes(self.vector),
            pair_terms=self.pair_terms.tolist(),
            site_terms=self.site_terms.tolist(),
            peers=self.peers,
        )
        return pb.Cotangents(
            key=self.key.to_proto(),
            element_type=_TYPES[self.vector.dtype.newbyteorder("<")],
            payload=payload.SerializeToString(),
        )

    @classmethod
    def from_proto(cls, message: pb.Cotangents) -> CotangentFrame:
        """The frame in a stranger's message; its arrays are the reader's own.

        Raises:
            FrameRefused: with the code of the first condition that does not hold.
        """
        payload = _parse(pb.CotangentPayload(), message.payload)
        frame = cls(
            key=StepKey.from_proto(message.key),
            # A copy: torch warns of arrays it may not write to.
            vector=_from_bytes(payload.vector, message.element_type).copy(),
            pair_terms=np.array(payload.pair_terms, np.float64),
            site_terms=np.array(payload.site_terms, np.float64),
            peers=payload.peers,
        )
        frame.check_numbers()
        return frame


def _check_vector(vector: NDArray[Any]) -> None:
    if vector.dtype not in (np.float32, np.float64):
        raise FrameRefused(
            ExchangeCode.WRONG_TYPE, f"a vector of {vector.dtype}; fp32 and fp64 are exchanged"
        )
    if vector.ndim != 1 or vector.size == 0 or vector.size % 2:
        raise FrameRefused(
            ExchangeCode.WRONG_SHAPE, f"a vector of shape {vector.shape}, not (2 Σ C,)"
        )
    if vector.size > MAX_ELEMENTS:
        raise FrameRefused(ExchangeCode.TOO_LARGE, f"{vector.size} elements of {MAX_ELEMENTS}")


def _check_numbers(vector: Vector) -> None:
    # One pass finds both: the maximum of anything with a NaN in it is NaN.
    largest = float(np.abs(vector).max())
    if not math.isfinite(largest):
        raise FrameRefused(ExchangeCode.NOT_FINITE, "an element is NaN or infinite")
    if largest > MAX_MAGNITUDE:
        raise FrameRefused(ExchangeCode.TOO_LARGE, f"an element is beyond ±{MAX_MAGNITUDE:g}")


def _to_bytes(vector: Vector) -> bytes:
    return vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes()


def _from_bytes(data: bytes, element_type: int) -> Vector:
    dtype = _DTYPES.get(element_type)
    if dtype is None:
        raise FrameRefused(ExchangeCode.WRONG_TYPE, f"element type {element_type}")
    if len(data) > MAX_ELEMENTS * dtype.itemsize:
        raise FrameRefused(ExchangeCode.TOO_LARGE, f"{len(data)} bytes of vector")
    if len(data) % dtype.itemsize:
        raise FrameRefused(
            ExchangeCode.WRONG_SHAPE, f"{len(data)} bytes are no whole number of {dtype}"
        )
    vector: Vector = np.frombuffer(data, dtype)
    return vector


def _parse(message: Any, data: bytes) -> Any:
    try:
        message.ParseFromString(data)
    except DecodeError as err:
        raise FrameRefused(ExchangeCode.MALFORMED, "the payload cannot be parsed") from err
    return message

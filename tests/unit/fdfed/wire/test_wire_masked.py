"""The records of masked aggregation: they survive the wire, and hostile ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.errors import WireError
from fdfed.exchange import ExchangeStats
from fdfed.wire import MaskedResult, Ready, ReadyRequest

RUN = "0123456789abcdef"
REQUEST = ReadyRequest(run_id=RUN, server_round=3, attempt=2)


def masked_result() -> MaskedResult:
    return MaskedResult(
        run_id=RUN,
        server_round=3,
        attempt=2,
        seconds=1.5,
        exchange=ExchangeStats(steps=4, answered=3, dropped=1, peers_mean=1.0, swap_ms_p50=0.9),
        values=np.array([0, 1, 2**63, 2**64 - 1], np.uint64),
    )


def test_the_messages_of_the_ready_phase_survive_the_wire() -> None:
    assert ReadyRequest.from_record(REQUEST.to_record()) == REQUEST
    ready = Ready(announcement='{"site":"tnbc"}')
    assert Ready.from_record(ready.to_record()) == ready


def test_a_masked_result_survives_the_wire_to_the_last_bit() -> None:
    sent = masked_result()
    got = MaskedResult.from_record(sent.to_record())
    assert got.values.dtype == np.uint64
    assert got.values.tobytes() == sent.values.tobytes()
    assert (got.run_id, got.server_round, got.attempt, got.seconds) == (RUN, 3, 2, 1.5)
    assert got.exchange == sent.exchange


def test_a_masked_result_has_no_other_array_than_the_masked_one() -> None:
    record = masked_result().to_record()
    assert set(record) == {"fdfed", "masked"}
    assert list(record["masked"]) == ["packed"]  # type: ignore[arg-type]


def with_array(array: object, *, name: str = "packed") -> RecordDict:
    record = masked_result().to_record()
    found = array if isinstance(array, Array) else Array(np.asarray(array))
    record["masked"] = ArrayRecord({name: found})
    return record


def truncated() -> Array:
    array = Array(np.arange(4, dtype=np.uint64))
    return Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=array.data[:-3])


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (with_array(np.zeros(4)), "of <f8, not of <u8"),
        (with_array(np.zeros(4, np.int64)), "of <i8, not of <u8"),
        (with_array(np.zeros(32, np.uint8)), r"of \|u1, not of <u8"),
        (with_array(np.zeros(4, ">u8")), "is not a flat array"),
        (with_array(np.zeros((2, 2), np.uint64)), "is not a flat array"),
        (with_array(np.uint64(3)), "is not a flat array"),
        (with_array(truncated()), "in 29 bytes"),
        (
            with_array(Array("uint64", (4,), "numpy.ndarray", b"not an array")),
            "is not a flat array",
        ),
        (with_array(np.zeros(4, np.uint64), name="other"), "not the one array 'packed'"),
    ],
)
def test_what_is_not_one_flat_array_of_uint64_is_refused(record: RecordDict, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        MaskedResult.from_record(record)


def test_a_masked_result_without_its_numbers_or_with_weights_in_the_clear_is_refused() -> None:
    record = masked_result().to_record()
    del record["masked"]
    with pytest.raises(WireError, match="without its 'masked' part"):
        MaskedResult.from_record(record)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "trained"},
        {"format": 2},
        {"run_id": "../.."},
        {"attempt": 0},
        {"attempt": True},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"exchange_steps": -1},
        {"num_examples": 3},
    ],
)
def test_a_header_that_does_not_fit_is_refused(changes: dict[str, object]) -> None:
    record = masked_result().to_record()
    record["fdfed"] = ConfigRecord(dict(record["fdfed"]) | changes)  # type: ignore[arg-type]
    with pytest.raises(WireError):
        MaskedResult.from_record(record)


def test_an_announcement_that_is_too_long_is_refused() -> None:
    with pytest.raises(WireError, match="at most 4096"):
        Ready.from_record(Ready(announcement="x" * 4097).to_record())


@given(data=st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_in_place_of_the_array_are_read_or_refused(data: bytes) -> None:
    record = masked_result().to_record()
    record["masked"] = ArrayRecord({"packed": Array("uint64", (4,), "numpy.ndarray", data)})
    try:
        values = MaskedResult.from_record(record).values
    except WireError:
        return
    assert values.dtype == np.uint64
    assert values.ndim == 1

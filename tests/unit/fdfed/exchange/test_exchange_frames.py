import contextlib

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fdfed.exchange import (
    MAX_MAGNITUDE,
    CotangentFrame,
    ExchangeCode,
    FrameRefused,
    PrototypeFrame,
    StepKey,
)
from fdfed.exchange import exchange_pb2 as pb

KEY = StepKey("run", 1, 0, 2)
VECTOR = np.array([1.0, 2.0, 3.0, 4.0])
VALID = np.array([True, False])

counters = st.integers(0, 2**31 - 1)
keys = st.builds(
    StepKey,
    run_id=st.text("abc-é0", min_size=1, max_size=128),
    server_round=counters,
    attempt=counters,
    step=counters,
)


def _vectors(dtype: type[np.floating], size: int) -> st.SearchStrategy[np.ndarray]:
    width = 32 if dtype is np.float32 else 64
    elements = (
        st.floats(-1e12, 1e12, width=width) if width == 64 else st.floats(-1e9, 1e9, width=32)
    )
    return arrays(dtype, 2 * size, elements=elements)


dtypes = st.sampled_from([np.float32, np.float64])
terms = st.floats(allow_nan=True, allow_infinity=False)


@st.composite
def prototype_frames(draw: st.DrawFn) -> PrototypeFrame:
    vector = draw(_vectors(draw(dtypes), draw(st.integers(1, 20))))
    valid = draw(arrays(np.bool_, draw(st.integers(1, 12))))
    return PrototypeFrame(draw(keys), vector, valid)


@st.composite
def cotangent_frames(draw: st.DrawFn) -> CotangentFrame:
    taps = draw(st.integers(1, 12))
    vector = draw(_vectors(draw(dtypes), draw(st.integers(1, 20))))
    pair, site = (draw(arrays(np.float64, taps, elements=terms)) for _ in range(2))
    return CotangentFrame(draw(keys), vector, pair, site, draw(counters))


@settings(deadline=None)
@given(frame=prototype_frames())
def test_prototypes_come_through_the_wire_bit_for_bit(frame: PrototypeFrame) -> None:
    data = frame.to_proto().SerializeToString()
    found = PrototypeFrame.from_proto(pb.Prototypes.FromString(data))
    assert found.key == frame.key
    assert found.vector.dtype == frame.vector.dtype
    assert found.vector.tobytes() == frame.vector.tobytes()
    assert found.valid.tolist() == frame.valid.tolist()


@settings(deadline=None)
@given(frame=cotangent_frames())
def test_cotangents_come_through_the_wire_bit_for_bit(frame: CotangentFrame) -> None:
    data = frame.to_proto().SerializeToString()
    found = CotangentFrame.from_proto(pb.Cotangents.FromString(data))
    assert (found.key, found.peers) == (frame.key, frame.peers)
    assert found.vector.dtype == frame.vector.dtype
    assert found.vector.tobytes() == frame.vector.tobytes()
    np.testing.assert_array_equal(found.pair_terms, frame.pair_terms)
    np.testing.assert_array_equal(found.site_terms, frame.site_terms)


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=200), element_type=st.integers(0, 3))
def test_hostile_payloads_are_refused_or_read_but_never_crash(
    data: bytes, element_type: int
) -> None:
    for message, kind in ((pb.Prototypes(), PrototypeFrame), (pb.Cotangents(), CotangentFrame)):
        message.key.CopyFrom(KEY.to_proto())
        message.element_type = element_type
        message.payload = data
        with contextlib.suppress(FrameRefused):
            kind.from_proto(message)


@settings(deadline=None, max_examples=300)
@given(frame=prototype_frames(), at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_read_but_never_crashes(
    frame: PrototypeFrame, at: int, bit: int
) -> None:
    data = bytearray(frame.to_proto().SerializeToString())
    data[at % len(data)] ^= 1 << bit
    message = pb.Prototypes()
    # DecodeError is what the service turns into MALFORMED before a frame is looked at.
    with contextlib.suppress(DecodeError, FrameRefused):
        message.ParseFromString(bytes(data))
        PrototypeFrame.from_proto(message)


def _prototypes(**changes: object) -> pb.Prototypes:
    fields: dict[str, object] = {
        "key": KEY.to_proto(),
        "element_type": pb.ELEMENT_TYPE_FLOAT64,
        "payload": pb.PrototypePayload(
            vector=VECTOR.tobytes(), valid=VALID.tobytes()
        ).SerializeToString(),
    }
    return pb.Prototypes(**(fields | changes))


def _payload(vector: bytes = VECTOR.tobytes(), valid: bytes = VALID.tobytes()) -> bytes:
    return pb.PrototypePayload(vector=vector, valid=valid).SerializeToString()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (_prototypes(payload=b"\xff\xff"), ExchangeCode.MALFORMED),
        (_prototypes(payload=_payload(valid=b"\x02\x00")), ExchangeCode.MALFORMED),
        (_prototypes(key=pb.StepKey(run_id="")), ExchangeCode.MALFORMED),
        (_prototypes(key=pb.StepKey(run_id="a\nb")), ExchangeCode.MALFORMED),
        (_prototypes(key=pb.StepKey(run_id="a" * 129)), ExchangeCode.MALFORMED),
        (_prototypes(key=pb.StepKey(run_id="a", step=2**31)), ExchangeCode.MALFORMED),
        (_prototypes(element_type=0), ExchangeCode.WRONG_TYPE),
        (_prototypes(element_type=9), ExchangeCode.WRONG_TYPE),
        (_prototypes(payload=b""), ExchangeCode.WRONG_SHAPE),
        (_prototypes(payload=_payload(vector=b"12345")), ExchangeCode.WRONG_SHAPE),
        (_prototypes(payload=_payload(vector=bytes(24))), ExchangeCode.WRONG_SHAPE),
        (_prototypes(payload=_payload(valid=bytes(257))), ExchangeCode.WRONG_SHAPE),
        (_prototypes(payload=_payload(vector=bytes(8 << 19))), ExchangeCode.TOO_LARGE),
        (
            _prototypes(payload=_payload(vector=np.array([0, np.nan]).tobytes())),
            ExchangeCode.NOT_FINITE,
        ),
        (
            _prototypes(payload=_payload(vector=np.array([np.inf, 0]).tobytes())),
            ExchangeCode.NOT_FINITE,
        ),
        (
            _prototypes(payload=_payload(vector=np.array([0, -2 * MAX_MAGNITUDE]).tobytes())),
            ExchangeCode.TOO_LARGE,
        ),
    ],
)
def test_each_broken_condition_is_refused_with_its_code(
    message: pb.Prototypes, code: ExchangeCode
) -> None:
    with pytest.raises(FrameRefused) as caught:
        PrototypeFrame.from_proto(message)
    assert caught.value.code is code
    assert code.public_message in str(caught.value)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (pb.CotangentPayload(vector=bytes(16), pair_terms=[1.0]), ExchangeCode.WRONG_SHAPE),
        (
            pb.CotangentPayload(vector=bytes(16), pair_terms=[1.0], site_terms=[1.0, 2.0]),
            ExchangeCode.WRONG_SHAPE,
        ),
        (
            pb.CotangentPayload(vector=bytes(16), pair_terms=[np.inf], site_terms=[1.0]),
            ExchangeCode.NOT_FINITE,
        ),
        (
            pb.CotangentPayload(vector=bytes(16), pair_terms=[1], site_terms=[1], peers=2**31),
            ExchangeCode.MALFORMED,
        ),
    ],
)
def test_each_broken_condition_of_an_answer_is_refused_with_its_code(
    payload: pb.CotangentPayload, code: ExchangeCode
) -> None:
    message = pb.Cotangents(
        key=KEY.to_proto(),
        element_type=pb.ELEMENT_TYPE_FLOAT64,
        payload=payload.SerializeToString(),
    )
    with pytest.raises(FrameRefused) as caught:
        CotangentFrame.from_proto(message)
    assert caught.value.code is code


def test_a_diverged_site_does_not_send() -> None:
    frame = PrototypeFrame(KEY, np.array([np.nan, 0.0], np.float32), VALID)
    with pytest.raises(FrameRefused) as caught:
        frame.to_proto()
    assert caught.value.code is ExchangeCode.NOT_FINITE


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("vector", "valid", "code"),
    [
        (np.zeros(4, np.float16), VALID, ExchangeCode.WRONG_TYPE),
        (np.zeros(4, ">f4"), VALID, ExchangeCode.WRONG_TYPE),
        (np.zeros(4, np.int64), VALID, ExchangeCode.WRONG_TYPE),
        (np.zeros((2, 2)), VALID, ExchangeCode.WRONG_SHAPE),
        (np.zeros(0), VALID, ExchangeCode.WRONG_SHAPE),
        (np.zeros(3), VALID, ExchangeCode.WRONG_SHAPE),
        (VECTOR, np.zeros(2), ExchangeCode.WRONG_SHAPE),
    ],
)
def test_a_frame_of_another_type_or_shape_cannot_be_made(
    vector: np.ndarray, valid: np.ndarray, code: ExchangeCode
) -> None:
    with pytest.raises(FrameRefused) as caught:
        PrototypeFrame(KEY, vector, valid)
    assert caught.value.code is code


def test_cotangents_from_the_wire_may_be_written_to() -> None:
    # torch.from_numpy warns of read-only arrays.
    frame = CotangentFrame(KEY, VECTOR, np.zeros(2), np.zeros(2), 1)
    assert CotangentFrame.from_proto(frame.to_proto()).vector.flags.writeable

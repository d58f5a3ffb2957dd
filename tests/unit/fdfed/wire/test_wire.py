from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.config import RunPlan
from fdfed.errors import WireError
from fdfed.evaluation.aggregates import Aggregate
from fdfed.exchange import ExchangeStats
from fdfed.wire import (
    EvaluateInstruction,
    EvaluateResult,
    Prepare,
    Prepared,
    TrainInstruction,
    TrainResult,
)

RUN = "0123456789abcdef"
PLAN = RunPlan(sites=("tnbc", "monuseg"))


def weights() -> dict[str, np.ndarray]:
    return {
        "conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "norm.num_batches_tracked": np.array(7, dtype=np.int64),
    }


def train_instruction() -> TrainInstruction:
    return TrainInstruction(
        plan=PLAN,
        run_id=RUN,
        server_round=3,
        attempt=1,
        phase=2,
        total_examples=66,
        best_round=2,
        alpha=np.array([0.0, 0.01]),
        target=np.array([-1.0, 2.0]),
        weights=weights(),
    )


def train_result() -> TrainResult:
    return TrainResult(
        run_id=RUN,
        server_round=3,
        attempt=1,
        num_examples=35,
        loss_seg=0.7,
        seconds=1.5,
        alpha=np.array([0.002, 0.01]),
        fd=np.array([1.5, np.nan]),
        exch=np.array([np.nan, 0.5]),
        valid=np.array([1.0, 0.25]),
        exchange=ExchangeStats(steps=4, answered=3, dropped=1, peers_mean=1.0, swap_ms_p50=0.9),
        weights=weights(),
    )


def assert_same_weights(got: object, expected: dict[str, np.ndarray]) -> None:
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value)


def test_a_train_instruction_survives_the_wire() -> None:
    sent = train_instruction()
    got = TrainInstruction.from_record(sent.to_record())
    assert_same_weights(got.weights, weights())
    np.testing.assert_array_equal(got.alpha, sent.alpha)
    np.testing.assert_array_equal(got.target, sent.target)
    assert (got.plan, got.run_id, got.server_round, got.phase) == (PLAN, RUN, 3, 2)
    assert (got.attempt, got.total_examples, got.best_round) == (1, 66, 2)


def test_a_missing_target_stays_missing() -> None:
    sent = replace(train_instruction(), target=None)
    assert TrainInstruction.from_record(sent.to_record()).target is None


def test_a_train_result_survives_the_wire_with_its_unknown_terms() -> None:
    got = TrainResult.from_record(train_result().to_record())
    assert_same_weights(got.weights, weights())
    np.testing.assert_array_equal(got.fd, [1.5, np.nan])
    np.testing.assert_array_equal(got.exch, [np.nan, 0.5])
    assert got.exchange == train_result().exchange
    assert got.num_examples == 35


def test_fp64_weights_keep_every_bit() -> None:
    value = np.nextafter(np.ones(3), 2)
    sent = replace(train_instruction(), weights={"w": value})
    got = TrainInstruction.from_record(sent.to_record())
    assert got.weights["w"].tobytes() == value.tobytes()


def test_prepare_and_evaluate_survive_the_wire() -> None:
    assert Prepare.from_record(Prepare(plan=PLAN, run_id=RUN).to_record()).plan == PLAN
    prepared = Prepared(
        site="tnbc",
        num_train=35,
        num_validation=10,
        num_test=5,
        num_empty=0,
        phantoms=False,
        version="0.1.0",
    )
    assert Prepared.from_record(prepared.to_record()) == prepared
    asked = EvaluateInstruction(
        plan=PLAN, run_id=RUN, server_round=0, part="test", weights=weights()
    )
    got = EvaluateInstruction.from_record(asked.to_record())
    assert (got.part, got.server_round) == ("test", 0)


def test_scores_survive_the_wire_and_withheld_ones_stay_withheld() -> None:
    scores = Aggregate(10, 1, 0.7, 0.1, 0.6, 0.7, 0.8)
    result = EvaluateResult(run_id=RUN, server_round=2, part="test", dice=scores, iou=scores)
    assert EvaluateResult.from_record(result.to_record()) == result
    withheld = replace(result, dice=None, iou=None)
    record = withheld.to_record()
    assert EvaluateResult.from_record(record) == withheld
    assert len(record["vectors"]) == 0


def edited(record: RecordDict, **changes: object) -> RecordDict:
    record["fdfed"] = ConfigRecord(dict(record["fdfed"]) | changes)
    return record


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "install the same fdfed"),
        ({"kind": "trained"}, "expected a 'train' message"),
        ({"server_round": 0}, "outside 1 to"),
        ({"server_round": True}, "wrong type bool"),
        ({"server_round": 1.5}, "wrong type float"),
        ({"phase": 3}, "outside 1 to 2"),
        ({"run_id": "../../etc/passwd"}, "hexadecimal"),
        ({"plan": "{}x"}, "no usable plan"),
        ({"plan": '{"rounds": 0}'}, "no usable plan"),
        ({"plan": "[" * 5000}, "no usable plan"),
        ({"total_examples": 10**9}, "outside"),
        ({"extra": 1}, "lacks or adds"),
    ],
)
def test_a_train_instruction_that_does_not_fit_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(WireError, match=message):
        TrainInstruction.from_record(edited(train_instruction().to_record(), **changes))


@pytest.mark.parametrize("part", ["fdfed", "vectors", "weights"])
def test_a_message_without_one_of_its_parts_is_refused(part: str) -> None:
    record = train_instruction().to_record()
    del record[part]
    with pytest.raises(WireError, match="without its"):
        TrainInstruction.from_record(record)


@pytest.mark.parametrize(
    "value",
    [
        np.array([np.nan, 1.0]),
        np.array([np.inf, 1.0]),
        np.array([1.0, 2.0], dtype=np.float32),
        np.ones((2, 1)),
        np.ones(2000),
    ],
)
def test_an_alpha_that_is_not_a_finite_float64_vector_is_refused(value: np.ndarray) -> None:
    record = train_instruction().to_record()
    record["vectors"]["alpha"] = Array(value)
    with pytest.raises(WireError, match="alpha"):
        TrainInstruction.from_record(record)


@pytest.mark.parametrize("value", [1e13, -1e13, 1e300])
def test_a_number_beyond_any_real_one_is_refused(value: float) -> None:
    # A mean over sites of such losses could overflow, and the others would be sent an infinity.
    for changes in ({"loss_seg": value}, {"fd": np.array([0.0, value])}):
        record = replace(train_result(), **changes).to_record()
        with pytest.raises(WireError, match=next(iter(changes))):
            TrainResult.from_record(record)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("exchange_staleness_mean", np.inf),
        ("exchange_staleness_mean", "late"),
        ("exchange_staleness_max", -1),
        ("exchange_staleness_max", 17),
        ("exchange_staleness_max", 1.5),
    ],
)
def test_an_age_of_replies_that_no_plan_allows_is_refused(key: str, value: object) -> None:
    record = train_result().to_record()
    record["fdfed"][key] = value
    with pytest.raises(WireError, match=key):
        TrainResult.from_record(record)


def test_an_archive_of_arrays_is_no_array() -> None:
    archive = io.BytesIO()
    np.savez(archive, a=np.zeros(2))
    record = train_result().to_record()
    record["vectors"]["fd"] = Array("float64", (2,), "numpy.ndarray", archive.getvalue())
    with pytest.raises(WireError, match="fd is not a flat array"):
        TrainResult.from_record(record)


def test_a_peer_of_another_format_is_told_which_one_it_speaks() -> None:
    record = train_result().to_record()
    record["fdfed"]["format"] = 7
    with pytest.raises(WireError, match="a message of format 7, but this version reads 1"):
        TrainResult.from_record(record)


@pytest.mark.bad_input  # checking the type of a mapping reads one of its values
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused_when_it_is_read(value: float) -> None:
    sent = replace(train_instruction(), weights={"w": np.array([1.0, value])})
    got = TrainInstruction.from_record(sent.to_record())
    with pytest.raises(WireError, match=r"'w'.*not finite"):
        _ = got.weights["w"]


def packed(record: RecordDict, data: bytes) -> RecordDict:
    array = Array(dtype="uint8", shape=(1,), stype="numpy.ndarray", data=data)
    record["weights"] = ArrayRecord({"packed": array})
    return record


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.array([print], dtype=object), id="objects"),
        pytest.param(np.zeros(3, dtype=np.float32), id="floats"),
        pytest.param(np.zeros((2, 2), dtype=np.uint8), id="two axes"),
        pytest.param(np.zeros(5, dtype=np.uint8), id="too few bytes"),
        pytest.param(np.zeros(5000, dtype=np.uint8), id="too many bytes"),
    ],
)
def test_packed_weights_that_are_not_the_listed_bytes_are_refused_unread(
    array: np.ndarray,
) -> None:
    record = packed(train_instruction().to_record(), saved(array))
    with pytest.raises(WireError, match="packed weights"):
        TrainInstruction.from_record(record)


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=200), head=st.sampled_from([b"", saved(np.zeros(0, np.uint8))]))
def test_random_bytes_for_the_weights_never_pass_and_never_crash(data: bytes, head: bytes) -> None:
    record = packed(train_instruction().to_record(), head[: len(head) // 2] + data)
    with pytest.raises(WireError):
        TrainInstruction.from_record(record)


@pytest.mark.parametrize(
    "tensors",
    [
        "",
        "{}",
        "[" * 5000,
        '[["w","float32",[6]],["w","int64",[]]]',
        '[["w","object",[6]],["n","int64",[]]]',
        '[["w","float32",[-6]],["n","int64",[]]]',
        '[["w","float32",[7]],["n","int64",[]]]',
        '[["w","float32",[2147483648,2147483648,2147483648]],["n","int64",[]]]',
        '[["w","float32",[6],1],["n","int64",[]]]',
    ],
)
def test_a_list_of_tensors_that_does_not_fit_the_bytes_is_refused(tensors: str) -> None:
    record = edited(train_instruction().to_record(), tensors=tensors)
    with pytest.raises(WireError, match="packed weights"):
        TrainInstruction.from_record(record)


def test_an_empty_set_of_weights_travels_too() -> None:
    sent = replace(train_instruction(), weights={})
    assert dict(TrainInstruction.from_record(sent.to_record()).weights) == {}


@pytest.mark.parametrize(
    "vector",
    [
        [5.5, 0, 0.5, 0.1, 0.4, 0.5, 0.6],
        [5, 0, 1.5, 0.1, 0.4, 0.5, 0.6],
        [5, 0, -0.5, 0.1, 0.4, 0.5, 0.6],
        [5, 0, 0.5],
        [1e12, 0, 0.5, 0.1, 0.4, 0.5, 0.6],
    ],
)
def test_scores_that_are_no_scores_are_refused(vector: list[float]) -> None:
    scores = Aggregate(10, 1, 0.7, 0.1, 0.6, 0.7, 0.8)
    result = EvaluateResult(run_id=RUN, server_round=2, part="test", dice=scores, iou=scores)
    record = result.to_record()
    record["vectors"]["dice"] = Array(np.array(vector, dtype=np.float64))
    with pytest.raises(WireError, match="dice"):
        EvaluateResult.from_record(record)

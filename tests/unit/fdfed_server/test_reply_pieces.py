"""A reply's large arrays lie on disk and read as if they were in memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fdfed.errors import InvalidInput, WireError
from fdfed.exchange import ExchangeStats
from fdfed.privacy import ContributionLayout, Measures
from fdfed.wire import (
    HalfPrecision,
    Integers,
    MaskedResult,
    RestoredWeights,
    SpooledBytes,
    TrainResult,
    Weights,
    changes_of,
)
from fdfed_server.aggregation import WeightedAverage
from fdfed_server.flower.pieces import Pieces
from fdfed_server.masked_sum import MaskedSum

LIMIT = 1 << 28
RUN = "ab" * 8


def message_of(record: RecordDict) -> tuple[str, dict[str, bytes]]:
    """Id and objects of a reply with this content."""
    metadata = Metadata(1, "", 2, 1, "", "", 0.0, 60.0, "train")
    message = make_message(metadata, record)
    objects = {key: part.deflate() for key, part in get_all_nested_objects(message).items()}
    return message.object_id, objects


def received(record: RecordDict, folder: Path | None = None, *, limit: int = LIMIT) -> RecordDict:
    message_id, objects = message_of(record)
    pieces = Pieces(objects.__getitem__, folder=folder)
    contents = {key: pieces.pull(key) for key in objects}
    assert sum(map(len, contents.values())) < 64 * 1024, "a large piece stayed in memory"
    return pieces.put_together(message_id, contents, limit=limit).content


def trained(weights: dict[str, np.ndarray]) -> TrainResult:
    return TrainResult(
        run_id=RUN, server_round=1, attempt=1, num_examples=3, loss_seg=1.0, seconds=1.0,
        alpha=np.zeros(2), fd=np.ones(2), exch=np.ones(2), valid=np.ones(2),
        exchange=ExchangeStats(), weights=weights,
    )  # fmt: skip


def test_tensors_that_cross_the_chunks_of_flower_read_as_they_were_sent(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "first": rng.random((700, 1000), dtype=np.float32),
        "counter": np.array(7),
        "second": rng.random((3, 1100, 1000), dtype=np.float32),
    }
    got = TrainResult.from_record(received(trained(weights).to_record(), tmp_path))
    assert list(got.weights) == list(weights)
    for name, value in weights.items():
        np.testing.assert_array_equal(got.weights[name], value)
        assert got.weights[name].shape == value.shape
    np.testing.assert_array_equal(got.fd, np.ones(2))
    assert list(tmp_path.iterdir()) == [], "the file has no name that a crash could leave"


def test_zeros_travel_once_and_read_everywhere() -> None:
    weights = {"zeros": np.zeros((4, 1024, 1024), np.float32)}
    got = TrainResult.from_record(received(trained(weights).to_record()))
    assert not got.weights["zeros"].any()
    assert got.weights["zeros"].shape == (4, 1024, 1024)


def test_masked_numbers_are_read_block_by_block() -> None:
    values = np.random.default_rng(1).integers(0, 2**64, 900_001, np.uint64, endpoint=False)
    sent = MaskedResult(run_id=RUN, server_round=1, attempt=1, seconds=1.0, values=values)
    got = MaskedResult.from_record(received(sent.to_record())).values
    assert isinstance(got, Integers)
    assert got.size == len(values)
    blocks = [
        got.block(begin, min(begin + 99_999, got.size)) for begin in range(0, got.size, 99_999)
    ]
    np.testing.assert_array_equal(np.concatenate(blocks), values)


@pytest.mark.parametrize("precision", [None, "fp16", "bf16"])
def test_an_update_on_disk_enters_the_average_as_one_in_memory_does(
    precision: HalfPrecision | None,
) -> None:
    """Of several blocks, and of a length that is none of theirs."""
    rng = np.random.default_rng(2)
    shape = (3, 131_077)
    before = {"w": rng.random(shape, dtype=np.float32), "n": np.array(7)}
    step = np.float32(0.01) * rng.random(shape, dtype=np.float32)
    sent: dict[str, np.ndarray] = {"w": before["w"] + step, "n": before["n"] + 1}
    if precision is not None:
        sent, _ = changes_of(sent, before, {}, trained={"w"}, precision=precision)
    results, moves = [], []
    for record in (received(trained(sent).to_record()), trained(sent).to_record()):
        weights = TrainResult.from_record(record).weights
        assert isinstance(weights, Weights)
        opened: Mapping[str, np.ndarray] = weights
        if precision is not None:
            opened = RestoredWeights(weights, before, trained={"w"}, precision=precision)
        average = WeightedAverage(before, measured=frozenset({"w"}))
        moves.append(average.check(opened))
        average.fold(opened, num_examples=3, square_move=moves[-1])
        average.fold(before, num_examples=1)
        results.append(average.result())
        # The mean of three updated and one old, and the norm, by NumPy in fp64 all at once.
        exact = np.asarray(opened["w"], np.float64)
        assert moves[-1] == pytest.approx(float(np.square(exact - before["w"]).sum()), rel=1e-12)
        np.testing.assert_allclose(results[-1]["w"], (3 * exact + before["w"]) / 4, rtol=1e-7)
    assert moves[0] == moves[1]
    assert results[0]["w"].tobytes() == results[1]["w"].tobytes()
    assert results[0]["n"] == 8


def test_a_masked_sum_of_several_blocks_is_that_of_the_numbers() -> None:
    form = ContributionLayout.of(
        {"w": np.zeros((3, 131_077), np.float32), "n": np.array(0)}, taps=2
    )
    rng, taps = np.random.default_rng(3), np.ones(2)
    total = MaskedSum(form)
    tensors = []
    for examples in (1, 3):
        weights = {"w": rng.random((3, 131_077), dtype=np.float32), "n": np.array(examples)}
        measures = Measures(loss_seg=0.5, alpha=taps, fd=taps, exch=taps, total=taps)
        values = form.contribution(weights, measures, num_examples=examples)
        sent = MaskedResult(run_id=RUN, server_round=1, attempt=1, seconds=1.0, values=values)
        on_disk = MaskedResult.from_record(received(sent.to_record())).values
        total.fold(on_disk if examples == 1 else values)
        tensors.append(weights)
    mean = total.mean(examples=4)
    expected = (tensors[0]["w"].astype(np.float64) + 3 * tensors[1]["w"].astype(np.float64)) / 4
    np.testing.assert_allclose(mean.weights["w"], expected, rtol=0, atol=1e-7)
    assert mean.weights["n"] == 2  # round(2.5), to even
    np.testing.assert_array_equal(mean.measures.fd, taps)


@pytest.mark.bad_input
def test_a_value_that_is_not_finite_is_found_on_disk_too() -> None:
    weights = {"w": np.full((300, 1000), np.inf, np.float32)}
    got = TrainResult.from_record(received(trained(weights).to_record()))
    with pytest.raises(WireError, match="not finite"):
        got.weights["w"]


def test_a_vector_as_large_as_a_model_is_refused() -> None:
    record = trained({"w": np.zeros(3, np.float32)}).to_record()
    names = list(record["vectors"])
    huge = {name: Array(np.random.default_rng(2).random(200_000)) for name in names}
    record["vectors"] = ArrayRecord(huge)
    with pytest.raises(WireError, match="where a few numbers belong"):
        TrainResult.from_record(received(record))


def test_arrays_that_would_hold_more_than_the_limit_are_refused() -> None:
    weights = {"zeros": np.zeros((4, 1024, 1024), np.float32)}
    with pytest.raises(WireError, match="more than 1000000 bytes"):
        received(trained(weights).to_record(), limit=10**6)


def test_a_disk_that_is_full_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InvalidInput, match=r"No space left.*make room"):
        received(trained({"w": np.ones((300, 1000), np.float32)}).to_record())


def test_a_read_beyond_the_end_gives_what_there_is() -> None:
    record = received(trained({"w": np.ones((300, 1000), np.float32)}).to_record())
    data = record["weights"]["packed"].data
    assert isinstance(data, SpooledBytes)
    assert len(data.read(len(data) - 10, 100)) == 10

"""Changes of weights in half precision: what is sent, what stays, and what comes of both."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.errors import InvalidInput, WireError
from fdfed.wire import HalfPrecision, RestoredWeights, TrainResult, Weights, changes_of

PRECISIONS: tuple[HalfPrecision, ...] = ("fp16", "bf16")
TRAINED = frozenset({"w"})
Arrays = dict[str, np.ndarray]


def of(*values: float) -> Arrays:
    return {"w": np.array(values, np.float32)}


def numbers_of(sent: Arrays, precision: HalfPrecision) -> np.ndarray:
    """What was sent, as fp64, by another way than the code's."""
    if precision == "fp16":
        return sent["w"].astype(np.float64)
    # The sixteen bits of a bf16 are those of an fp32 whose other sixteen are zeros.
    bits = b"".join(b"\0\0" + int(value).to_bytes(2, "little") for value in sent["w"].reshape(-1))
    return np.frombuffer(bits, "<f4").astype(np.float64).reshape(sent["w"].shape)


def rounded_by_the_standard(value: float, precision: HalfPrecision) -> float:
    """To the nearest multiple of the format's spacing there, ties to even (IEEE 754)."""
    significant, least = (11, -24) if precision == "fp16" else (8, -133)
    if value == 0:
        return value
    exponent = int(np.frexp(value)[1])  # value = m · 2^exponent, 0.5 <= m < 1
    spacing = 2.0 ** max(exponent - significant, least)
    return float(round(value / spacing) * spacing)  # Python rounds ties to even


def received(sent: Arrays) -> Weights:
    """What the coordinator has of an answer."""
    taps = np.ones(1)
    result = TrainResult(
        run_id="ab" * 8, server_round=1, attempt=1, num_examples=1, loss_seg=1.0, seconds=1.0,
        alpha=taps, fd=taps, exch=taps, valid=taps, weights=sent,
    )  # fmt: skip
    weights = TrainResult.from_record(result.to_record()).weights
    assert isinstance(weights, Weights)
    return weights


@pytest.mark.parametrize(
    ("precision", "step"),
    # In [1, 2) fp16 has the spacing 4 · 2⁻¹², bf16 4 · 2⁻⁹.
    [("fp16", 2.0**-12), ("bf16", 2.0**-9)],
)
def test_what_is_sent_and_what_stays_is_as_worked_by_hand(
    precision: HalfPrecision, step: float
) -> None:
    residual: Arrays = {}
    # The change is 1 + 1 step each time; with what stayed it is 1 + 1, 1 + 2, 1 + 3 steps. The
    # second is a tie and goes to the even 1, the third is nearer to 1 + 4.
    for sum_sent, stays in ((1.0, step), (1.0, 2 * step), (1 + 4 * step, -step)):
        sent, residual = changes_of(
            of(3 + step), of(2), residual, trained=TRAINED, precision=precision
        )
        assert numbers_of(sent, precision) == sum_sent
        assert residual["w"] == stays


@pytest.mark.parametrize("precision", PRECISIONS)
@given(value=st.floats(-60000, 60000, width=32))
@settings(max_examples=200, deadline=None)
def test_rounding_is_that_of_the_standard_and_what_stays_is_exact(
    precision: HalfPrecision, value: float
) -> None:
    sent, residual = changes_of(of(value), of(0), {}, trained=TRAINED, precision=precision)
    number = numbers_of(sent, precision)[0]
    assert number == rounded_by_the_standard(value, precision)
    assert float(residual["w"][0]) == value - number
    assert abs(residual["w"][0]) <= max(abs(value) * 2.0 ** (-11 if precision == "fp16" else -8),
                                        2.0**-25)  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS)
@given(
    rounds=st.lists(st.lists(st.integers(-(2**14), 2**14), min_size=3, max_size=3), min_size=1),
)
@settings(max_examples=50, deadline=None)
def test_what_was_sent_differs_from_what_was_trained_by_the_last_residual_alone(
    precision: HalfPrecision, rounds: list[list[int]]
) -> None:
    """On a grid on which fp32 is exact, to the bit."""
    residual: Arrays = {}
    trained, arrived = np.zeros(3), np.zeros(3)
    for steps in rounds:
        change = np.array(steps) * 2.0**-18
        sent, residual = changes_of(
            of(*(1 + change)), of(1, 1, 1), residual, trained=TRAINED, precision=precision
        )
        trained += change
        arrived += numbers_of(sent, precision)
    np.testing.assert_array_equal(trained - arrived, residual["w"].astype(np.float64))
    # It does not grow with the rounds: half a spacing of the largest change.
    assert np.abs(residual["w"]).max() <= 2.0**-4 * 2.0 ** (-11 if precision == "fp16" else -8)


@pytest.mark.parametrize("precision", PRECISIONS)
@given(seed=st.integers(0, 2**32 - 1), rounds=st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_off_that_grid_they_agree_to_the_rounding_of_fp32(
    precision: HalfPrecision, seed: int, rounds: int
) -> None:
    rng = np.random.default_rng(seed)
    residual: Arrays = {}
    left = np.zeros(50)
    for _ in range(rounds):
        before = {"w": rng.normal(size=50).astype(np.float32)}
        after = {"w": before["w"] + rng.normal(scale=0.01, size=50).astype(np.float32)}
        sent, residual = changes_of(after, before, residual, trained=TRAINED, precision=precision)
        left += after["w"].astype(np.float64) - before["w"] - numbers_of(sent, precision)
    # Each round rounds a difference and a sum of at most 0.1 to fp32.
    np.testing.assert_allclose(left, residual["w"], rtol=0, atol=rounds * 2 * 0.1 * 2.0**-24)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_change_too_small_for_the_format_is_sent_when_enough_has_come_together(
    precision: HalfPrecision,
) -> None:
    # A quarter of the smallest fp16; bf16 has it.
    change, arrived, residual = 2.0**-26, [], {}
    for _ in range(3):
        sent, residual = changes_of(
            of(change), of(0), residual, trained=TRAINED, precision=precision
        )
        arrived.append(float(numbers_of(sent, precision)[0]))
    # 1/4 goes to 0, 2/4 is a tie and goes to the even 0, 3/4 to 1.
    assert arrived == ([0, 0, 2.0**-24] if precision == "fp16" else [change] * 3)


def test_fp16_refuses_what_is_beyond_its_range_and_bf16_takes_it() -> None:
    with pytest.raises(InvalidInput, match=r"'w' reaches 1e\+05, beyond the 6\.55e\+04 of fp16.*"
                       "lower learning_rate, or use update_precision = full"):  # fmt: skip
        changes_of(of(0, -1e5), of(0, 0), {}, trained=TRAINED, precision="fp16")
    sent, _ = changes_of(of(-1e5), of(0), {}, trained=TRAINED, precision="bf16")
    assert numbers_of(sent, "bf16") == pytest.approx(-1e5, rel=2**-8)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_change_that_is_no_number_never_reaches_the_residual(
    precision: HalfPrecision, value: float
) -> None:
    with pytest.raises(InvalidInput, match="'w' that are not finite; lower learning_rate"):
        changes_of(of(1, value), of(0, 0), {}, trained=TRAINED, precision=precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_follows_no_gradient_and_what_is_not_fp32_travels_as_it_is(
    precision: HalfPrecision,
) -> None:
    weights = of(1.5) | {
        "running_var": np.array([1e-30], np.float32),
        "num_batches_tracked": np.array(7),
        "table": np.array([3], np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "scale": np.array(0.25, np.float32),
    }
    before: Arrays = {name: np.zeros_like(value) for name, value in weights.items()}
    trained = {"w", "table", "empty", "scale"}
    sent, residual = changes_of(weights, before, {}, trained=trained, precision=precision)
    for name in ("running_var", "num_batches_tracked", "table"):
        assert sent[name] is weights[name]
    assert set(residual) == {"w", "empty", "scale"}
    got = RestoredWeights(received(sent), before, trained=trained, precision=precision)
    assert list(got) == list(weights)
    for name, value in weights.items():
        np.testing.assert_array_equal(got[name], value)
        assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape)
        assert got.described(name) == (value.dtype, value.shape)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_restored_is_the_sent_change_on_top_of_the_reference_in_any_block(
    precision: HalfPrecision,
) -> None:
    rng = np.random.default_rng(0)
    before = {"w": rng.normal(size=(3, 35)).astype(np.float32)}
    after = {"w": before["w"] + rng.normal(scale=0.01, size=(3, 35)).astype(np.float32)}
    sent, _ = changes_of(after, before, {}, trained=TRAINED, precision=precision)
    weights = received(sent)
    assert weights.nbytes == 2 * 105
    got = RestoredWeights(weights, before, trained=TRAINED, precision=precision)
    expected = before["w"] + numbers_of(sent, precision).astype(np.float32)
    np.testing.assert_array_equal(got["w"], expected)
    for buffer in (None, np.empty(1000, np.uint8), np.empty(3, np.uint8)):
        block = got.block("w", 10, 71, buffer=buffer)
        np.testing.assert_array_equal(block, expected.reshape(-1)[10:71])


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("value", "precision"),
    [
        (np.zeros(2, np.float32), "bf16"),
        (np.zeros(2, np.float16), "bf16"),
        (np.zeros(2, np.uint16), "fp16"),
        (np.zeros(3, np.float16), "fp16"),
    ],
)
def test_a_change_in_another_form_than_the_plans_is_refused(
    value: np.ndarray, precision: Literal["fp16", "bf16"]
) -> None:
    with pytest.raises(WireError, match=f"'w' is .* with update_precision = {precision} it is"):
        RestoredWeights(received({"w": value}), of(0, 0), trained=TRAINED, precision=precision)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("value", "precision"),
    [
        (np.array([np.inf, 0], np.float16), "fp16"),
        (np.array([0, np.nan], np.float16), "fp16"),
        (np.array([0x7F80, 0], np.uint16), "bf16"),  # ∞
        (np.array([0, 0x7FC0], np.uint16), "bf16"),  # NaN
    ],
)
def test_a_change_that_is_not_finite_is_refused_when_it_is_read(
    value: np.ndarray, precision: Literal["fp16", "bf16"]
) -> None:
    got = RestoredWeights(received({"w": value}), of(0, 0), trained=TRAINED, precision=precision)
    with pytest.raises(WireError, match="'w' holds values that are not finite"):
        got["w"]

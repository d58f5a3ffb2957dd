"""Fixed point: exact sums that cannot wrap around, and refusal of what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdfed.errors import InvalidInput
from fdfed.privacy.fixed_point import (
    COUNTER_LIMIT,
    EXAMPLES_LIMIT,
    FRACTION_BITS,
    LIMIT,
    encode,
    mean,
)


def test_a_value_is_scaled_and_rounded_as_worked_by_hand() -> None:
    # 2²⁵ = 33554432: 1 → 33554432, -0.5 → -16777216, 2⁻²⁶ is half a unit and goes to the even 0,
    # 3 · 2⁻²⁶ is one and a half and goes to the even 2.
    values = np.array([1.0, -0.5, 2.0**-26, 3 * 2.0**-26])
    np.testing.assert_array_equal(encode(values, name="w"), [33554432, -16777216, 0, 2])


def test_a_mean_is_weighted_by_examples_as_worked_by_hand() -> None:
    # (1 · 1 + 3 · 5) / 4 = 4, and of the counters (1 · 8 + 3 · 9) / 4 = 8.75, a 9.
    total = encode(np.array([1.0]), name="w") + 3 * encode(np.array([5.0]), name="w")
    assert mean(total.view(np.uint64), examples=4, dtype=np.dtype(np.float32)) == 4
    counts = np.array([8 + 3 * 9]).view(np.uint64)
    assert mean(counts, examples=4, dtype=np.dtype(np.int64)) == 9


@given(
    rows=st.lists(
        st.tuples(st.integers(1, 10**5), st.floats(-LIMIT, LIMIT, width=32)),
        min_size=1,
        max_size=100,
    )
)
def test_the_mean_is_within_half_a_unit_of_the_real_one(rows: list[tuple[int, float]]) -> None:
    examples = sum(n for n, _ in rows)
    total = np.zeros(1, np.uint64)
    for n, x in rows:
        total += (n * encode(np.array([x]), name="w")).view(np.uint64)
    got = mean(total, examples=examples, dtype=np.dtype(np.float64))[0]
    expected = sum(n * x for n, x in rows) / examples
    assert abs(got - expected) <= 2.0 ** -(FRACTION_BITS + 1) + 1e-15 * LIMIT


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_values_of_all_examples_do_not_wrap_around(sign: int) -> None:
    n, rest = 2**23, EXAMPLES_LIMIT - 1 - 2**23
    term = encode(np.array([sign * LIMIT]), name="w")
    total = (n * term).view(np.uint64) + (rest * term).view(np.uint64)
    got = mean(total, examples=n + rest, dtype=np.dtype(np.float64))
    assert got[0] == sign * LIMIT
    largest = encode(np.array([COUNTER_LIMIT - 1]), name="k") * (EXAMPLES_LIMIT - 1)
    assert largest[0] == (COUNTER_LIMIT - 1) * (EXAMPLES_LIMIT - 1) > 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.nextafter(LIMIT, np.inf), -1e30])
def test_a_value_out_of_range_is_refused_not_clipped(value: float) -> None:
    with pytest.raises(InvalidInput, match=r"'conv\.weight' holds a value that is not within"):
        encode(np.array([0.0, value]), name="conv.weight")


@pytest.mark.parametrize("value", [-1, COUNTER_LIMIT])
def test_a_counter_out_of_range_is_refused(value: int) -> None:
    with pytest.raises(InvalidInput, match=r"the counter 'norm\.count' is not in 0 to"):
        encode(np.array(value), name="norm.count")


def test_nothing_is_encoded_as_nothing() -> None:
    assert encode(np.zeros((0, 3), np.float32), name="w").shape == (0,)
    assert encode(np.zeros(0, np.int64), name="k").shape == (0,)

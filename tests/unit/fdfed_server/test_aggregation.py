from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.errors import WireError
from fdfed_server.aggregation import WeightedAverage

REFERENCE = {"w": np.zeros(2, dtype=np.float32), "norm.count": np.array(4, dtype=np.int64)}
TRAINED = frozenset({"w"})


def update(first: float, second: float, count: int = 8) -> dict[str, np.ndarray]:
    return {
        "w": np.array([first, second], dtype=np.float32),
        "norm.count": np.array(count, dtype=np.int64),
    }


def test_the_average_is_weighted_by_examples_as_worked_by_hand() -> None:
    average = WeightedAverage(REFERENCE, measured=TRAINED)
    average.fold(update(1, 2), num_examples=1)
    average.fold(update(5, 6), num_examples=3)
    result = average.result()
    # (1·1 + 3·5) / 4 = 4 and (1·2 + 3·6) / 4 = 5
    np.testing.assert_array_equal(result["w"], np.array([4, 5], dtype=np.float32))
    assert average.examples == 4


def test_counters_of_batch_normalisation_stay_integers() -> None:
    average = WeightedAverage(REFERENCE, measured=TRAINED)
    average.fold(update(0, 0, count=8), num_examples=1)
    average.fold(update(0, 0, count=9), num_examples=2)
    count = average.result()["norm.count"]
    assert isinstance(count, np.ndarray)
    assert count.dtype == np.int64
    assert count == 9  # round(26 / 3)


def test_the_drift_is_the_spread_of_the_sites_around_their_mean() -> None:
    average = WeightedAverage(REFERENCE, measured=TRAINED)
    moved = average.fold(update(3, 4), num_examples=1)
    average.fold(update(-3, -4), num_examples=1)
    assert moved == pytest.approx(5.0)
    # Mean (0, 0); both sites 5 away from it.
    assert average.drift(average.result()) == pytest.approx(5.0)


def test_the_order_of_the_tensors_changes_no_bit_of_the_drift() -> None:
    rng = np.random.default_rng(0)
    names = [f"w{n}" for n in range(40)]
    start, moved, also = (
        {n: rng.normal(size=7).astype(np.float32) * 10 ** (i % 5) for i, n in enumerate(names)}
        for _ in range(3)
    )

    def drifts(order: list[str]) -> tuple[float, float, float]:
        reference = {name: start[name] for name in order}
        average = WeightedAverage(reference, measured=frozenset(names))
        moves = [average.fold(update, num_examples=n) for update, n in ((moved, 3), (also, 5))]
        return *moves, average.drift(average.result())

    assert drifts(names) == drifts(names[::-1]) == drifts(sorted(names))


def test_equal_updates_have_no_drift() -> None:
    average = WeightedAverage(REFERENCE, measured=TRAINED)
    for examples in (1, 2, 5):
        average.fold(update(3, 4), num_examples=examples)
    assert average.drift(average.result()) == pytest.approx(0.0, abs=1e-7)


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.floats(-10, 10, width=32), st.integers(1, 1000)), min_size=1, max_size=6
    )
)
def test_the_average_agrees_with_numpy(rows: list[tuple[float, int]]) -> None:
    average = WeightedAverage(REFERENCE, measured=TRAINED)
    for value, examples in rows:
        average.fold(update(value, -value), num_examples=examples)
    expected = np.average([v for v, _ in rows], weights=[n for _, n in rows])
    np.testing.assert_allclose(average.result()["w"][0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"w": np.zeros(2, dtype=np.float32)}, "lacks or adds tensors: norm.count"),
        (update(0, 0) | {"more": np.zeros(1)}, "lacks or adds tensors: more"),
        (update(0, 0) | {"w": np.zeros(3, dtype=np.float32)}, r"'w'.*\(3,\)"),
        (update(0, 0) | {"w": np.zeros(2)}, "'w'.*float64"),
        (update(0, np.nan), "'w'.*not finite"),
        (update(0, np.inf), "'w'.*not finite"),
    ],
)
def test_an_update_that_does_not_fit_is_refused_before_it_enters(
    weights: dict[str, np.ndarray], message: str
) -> None:
    average = WeightedAverage(REFERENCE, measured=TRAINED)
    with pytest.raises(WireError, match=message):
        average.check(weights)
    assert average.examples == 0

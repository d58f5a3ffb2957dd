"""Aggregates of scores: what may be told of a site's images."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.errors import InvalidInput
from fdfed.evaluation.aggregates import QUARTILES_FROM, aggregate


def test_an_aggregate_matches_its_definition_worked_by_hand() -> None:
    # mean (0 + 0.5 + 1) / 3 = 0.5; sd √((0.25 + 0 + 0.25) / 2) = 0.5.
    found = aggregate([1.0, 0.0, math.nan, 0.5], min_count=3)
    assert found is not None
    assert (found.n, found.n_empty) == (3, 1)
    assert (found.mean, found.sd) == (0.5, 0.5)


def test_quartiles_are_withheld_where_each_would_be_one_images_score() -> None:
    few = aggregate([k / 8 for k in range(QUARTILES_FROM - 1)], min_count=1)
    assert few is not None
    assert all(math.isnan(value) for value in (few.q25, few.median, few.q75))
    # 0, 0.1 … 1: a quarter of the way through eleven values is half-way between the third and
    # the fourth.
    enough = aggregate([k / 10 for k in range(11)], min_count=1)
    assert enough is not None
    assert (enough.q25, enough.median, enough.q75) == pytest.approx((0.25, 0.5, 0.75))


@settings(deadline=None)
@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_an_aggregate_agrees_with_the_standard_library(values: list[float]) -> None:
    found = aggregate(values, min_count=1)
    assert found is not None
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.sd == pytest.approx(statistics.stdev(values), abs=1e-12)
    if len(values) >= QUARTILES_FROM:
        quartiles = statistics.quantiles(values, n=4, method="inclusive")
        assert (found.q25, found.median, found.q75) == pytest.approx(tuple(quartiles))


@given(values=st.lists(st.sampled_from([0.25, math.nan]), max_size=8), minimum=st.integers(1, 8))
def test_nothing_is_told_of_fewer_than_the_minimum_count_of_scored_images(
    values: list[float], minimum: int
) -> None:
    scored = sum(not math.isnan(value) for value in values)
    found = aggregate(values, min_count=minimum)
    assert (found is None) == (scored < minimum)
    if found is not None:
        assert found.n >= minimum


def test_the_spread_of_a_single_image_is_zero_and_no_nan() -> None:
    found = aggregate(np.array([0.75]), min_count=1)
    assert found is not None
    assert (found.mean, found.sd) == (0.75, 0)


def test_a_minimum_count_below_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match="min_count is 0"):
        aggregate([0.5], min_count=0)


def test_an_infinite_score_is_refused() -> None:
    with pytest.raises(InvalidInput, match="infinite"):
        aggregate([math.inf], min_count=1)

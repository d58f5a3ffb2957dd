"""The better half is kept, replicates are paired, and spreads are the textbook's."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdfed.studies.halving import Spread, best_half, paired_differences

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def test_spread_of_three_scores_worked_by_hand() -> None:
    # mean (0.6 + 0.7 + 0.8) / 3 = 0.7; squares 0.01 + 0 + 0.01 over n - 1 = 2: sd 0.1.
    spread = Spread.of([0.6, 0.7, 0.8])
    assert (spread.n, spread.mean, spread.sd) == (3, pytest.approx(0.7), pytest.approx(0.1))


def test_one_score_has_no_spread() -> None:
    assert math.isnan(Spread.of([0.5]).sd)


def test_the_highest_means_are_kept_best_first_and_a_diverged_run_comes_last() -> None:
    scores = {"a": [0.7, 0.5], "b": [0.9], "c": [0.65, 0.7], "d": []}
    assert best_half(scores, keep=3) == ["b", "c", "a"]
    assert best_half(scores, keep=4)[-1] == "d"


def test_equal_means_keep_their_order() -> None:
    assert best_half({"z": [0.5], "a": [0.5], "m": [0.5]}, keep=2) == ["z", "a"]


@given(scores=st.dictionaries(st.text(max_size=3), SCORES, min_size=1), keep=st.integers(1, 9))
def test_no_candidate_left_out_beats_one_that_is_kept(
    scores: dict[str, list[float]], keep: int
) -> None:
    kept = best_half(scores, keep=keep)
    assert len(kept) == min(keep, len(scores))
    worst = min(Spread.of(scores[name]).mean for name in kept)
    assert all(Spread.of(scores[name]).mean <= worst for name in scores.keys() - set(kept))


def test_only_common_replicates_are_paired() -> None:
    ours, theirs = {(0, 0): 0.75, (1, 0): 0.5, (2, 0): 1.0}, {(1, 0): 0.25, (0, 0): 0.5}
    assert paired_differences(ours, theirs) == [0.25, 0.25]

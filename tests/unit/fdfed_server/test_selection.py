"""Which round counts as the best."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.evaluation.results import RoundRecord, SiteRound
from fdfed_server.selection import displaces


def record(number: int = 1, **dice: float | None) -> RoundRecord:
    sites = {site: SiteRound(val_dice=value) for site, value in dice.items()}
    return RoundRecord(round=number, phase=1, sites=sites)


def test_anything_displaces_nothing() -> None:
    assert displaces(record(a=None, b=None), None)
    assert displaces(record(), None)


@pytest.mark.parametrize(
    ("new", "displaced"),
    [
        ({"a": 0.6, "b": 0.6}, True),  # mean 0.6 against 0.55
        ({"a": 0.9, "b": 0.1}, False),  # mean 0.5
        ({"a": 0.5, "b": 0.6}, True),  # equal: the newer
    ],
)
def test_the_higher_unweighted_mean_wins_and_of_equals_the_newer(
    new: dict[str, float], displaced: bool
) -> None:
    assert displaces(record(**new), record(a=0.6, b=0.5)) is displaced


def test_a_round_is_not_better_because_a_difficult_site_was_away() -> None:
    # Mean 0.85 against 0.7; but on `easy`, which scored both, 0.85 against 0.9.
    assert not displaces(record(easy=0.85, hard=None), record(easy=0.9, hard=0.5))
    assert not displaces(record(easy=0.85), record(easy=0.9, hard=0.5))
    assert displaces(record(easy=0.95), record(easy=0.9, hard=0.5))


def test_a_site_that_withholds_its_scores_does_not_count() -> None:
    assert displaces(record(a=0.7, small=None), record(a=0.6, small=None))
    assert not displaces(record(a=0.5, small=None), record(a=0.6, small=None))


def test_a_round_without_a_score_displaces_none_that_has_one() -> None:
    assert not displaces(record(a=None, b=float("nan")), record(a=0.0, b=0.0))


def test_where_no_site_scored_both_the_newer_is_taken() -> None:
    assert displaces(record(a=0.1), record(b=0.9))


@settings(deadline=None)
@given(
    scores=st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8
    )
)
def test_with_every_site_present_it_is_the_last_of_the_highest_means(
    scores: list[tuple[float, float, float]],
) -> None:
    best: RoundRecord | None = None
    for number, (a, b, c) in enumerate(scores):
        new = record(number, a=a, b=b, c=c)
        if displaces(new, best):
            best = new
    assert best is not None
    sums = [a + b + c for a, b, c in scores]
    assert sums[best.round] == max(sums)
    assert max(sums) not in sums[best.round + 1 :]

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.exchange import ExchangeCode, FrameRefused
from fdfed_server.barrier import RoundBarrier


def _barrier(
    sites: int = 3, *, steps: int = 100, missed: int = 3, staleness: int = 0
) -> RoundBarrier[str]:
    return RoundBarrier(
        sites=sites,
        steps=steps,
        deadline_seconds=10.0,
        max_missed_steps=missed,
        max_staleness=staleness,
    )


def _post(barrier: RoundBarrier[str], site: int, step: int, now: float = 0.0) -> list[list[int]]:
    """Posts; the sites of each step that this completed."""
    barrier.post(site, step, f"{site}@{step}", now=now)
    return [[index for index, _ in closed.entries] for closed in barrier.collect()]


def _code(barrier: RoundBarrier[str], site: int, step: int) -> ExchangeCode:
    with pytest.raises(FrameRefused) as caught:
        barrier.post(site, step, "", now=0.0)
    return caught.value.code


def test_a_step_is_complete_when_every_site_has_posted() -> None:
    barrier = _barrier()
    assert _post(barrier, 2, 0) == []
    assert _post(barrier, 0, 0) == []
    assert _post(barrier, 1, 0) == [[0, 1, 2]]
    assert barrier.next_deadline is None


@settings(deadline=None)
@given(order=st.permutations(range(6)))
def test_entries_come_in_the_order_of_sites_whatever_the_order_of_arrival(order: list[int]) -> None:
    barrier = _barrier(6)
    *_, last = [_post(barrier, site, 0) for site in order]
    assert last == [[0, 1, 2, 3, 4, 5]]


def test_past_the_deadline_a_step_closes_with_those_who_are_there() -> None:
    barrier = _barrier()
    _post(barrier, 0, 0, now=5.0)
    assert barrier.next_deadline == 15.0
    assert barrier.expire(14.9) == []
    (closed,) = barrier.expire(15.0)
    assert ([index for index, _ in closed.entries], closed.missed_by) == ([0], (1, 2))


def test_a_late_frame_is_refused_at_once_and_the_next_step_is_joined() -> None:
    barrier = _barrier(2)
    _post(barrier, 0, 0)
    barrier.expire(10.0)
    assert _code(barrier, 1, 0) is ExchangeCode.TOO_LATE
    _post(barrier, 0, 1)
    assert _post(barrier, 1, 1) == [[0, 1]]


def test_a_site_that_misses_too_many_steps_in_a_row_is_absent_for_the_rest_of_the_round() -> None:
    barrier = _barrier(2, missed=2)
    for step in range(2):
        _post(barrier, 0, step)
        assert len(barrier.expire(10.0)) == 1
    assert barrier.expelled == (1,)
    assert barrier.present == (0,)
    assert _post(barrier, 0, 2) == [[0]], "nobody waits for it any more"
    assert _code(barrier, 1, 3) is ExchangeCode.ABSENT
    assert barrier.present == (0,)


def test_a_step_that_was_met_clears_the_count_of_missed_ones() -> None:
    barrier = _barrier(2, missed=2)
    for step in (0, 2, 4):
        _post(barrier, 0, step)
        barrier.expire(10.0)
        _post(barrier, 0, step + 1)
        assert _post(barrier, 1, step + 1) == [[0, 1]]
    assert barrier.expelled == ()


def test_expelling_a_site_completes_the_steps_that_waited_for_it_alone() -> None:
    barrier = _barrier(3, missed=1)
    _post(barrier, 0, 0, now=0.0)
    _post(barrier, 1, 1, now=5.0)
    (closed,) = barrier.expire(10.0)
    assert (closed.step, closed.missed_by) == (0, (2,)), "site 1 is past step 0"
    assert barrier.collect() == [], "step 1 waits for site 0"
    assert _post(barrier, 0, 1) == [[0, 1]]


def test_a_site_that_left_is_not_waited_for_and_its_frame_is_withdrawn() -> None:
    barrier = _barrier(3)
    _post(barrier, 2, 0)
    _post(barrier, 0, 0)
    barrier.withdraw(2)
    assert barrier.collect() == []
    assert _post(barrier, 1, 0) == [[0, 1]]
    assert barrier.present == (0, 1)


def test_a_site_whose_leaving_completes_a_step_lets_the_others_go_on() -> None:
    barrier = _barrier(3)
    _post(barrier, 0, 0)
    _post(barrier, 1, 0)
    barrier.withdraw(2)
    (closed,) = barrier.collect()
    assert [index for index, _ in closed.entries] == [0, 1]


def test_a_site_may_come_back_in_the_same_round_and_post_the_withdrawn_step_again() -> None:
    barrier = _barrier(3)
    _post(barrier, 1, 0)
    barrier.withdraw(1)
    assert _post(barrier, 0, 0) == []
    assert _post(barrier, 1, 0) == []
    assert _post(barrier, 2, 0) == [[0, 1, 2]]


def test_nobody_waits_for_a_site_that_came_back_before_it_posts() -> None:
    barrier = _barrier(3)
    barrier.withdraw(2)
    # Its stream may be open again, but an agent that was started anew trains in the next round.
    assert _post(barrier, 0, 0) == []
    assert _post(barrier, 1, 0) == [[0, 1]]


def test_a_site_that_came_back_and_posts_is_waited_for_at_later_steps() -> None:
    barrier = _barrier(3)
    barrier.withdraw(2)
    _post(barrier, 0, 1)
    assert _post(barrier, 2, 0) == []
    assert barrier.present == (0, 1, 2)
    assert _post(barrier, 1, 1) == [[2]], "step 0 is behind all others, step 1 waits for site 2"
    assert _post(barrier, 2, 1) == [[0, 1, 2]]


def test_sites_that_drifted_apart_meet_again_without_a_deadline() -> None:
    barrier = _barrier(2)
    # Site 1 trained through a lost connection and comes back five steps ahead.
    assert _post(barrier, 0, 3) == []
    assert _post(barrier, 1, 8) == [[0]]
    for step in (4, 5, 6, 7):
        assert _post(barrier, 0, step) == [[0]]
    assert _post(barrier, 0, 8) == [[0, 1]]


def test_a_late_frame_still_tells_that_its_site_has_passed_earlier_steps() -> None:
    barrier = _barrier(3)
    _post(barrier, 0, 5, now=0.0)
    barrier.expire(10.0)
    _post(barrier, 1, 4, now=10.0)
    barrier.withdraw(0)
    assert barrier.collect() == [], "step 4 waits for site 2"
    assert _code(barrier, 2, 5) is ExchangeCode.TOO_LATE
    (closed,) = barrier.collect()
    assert closed.step == 4


def test_steps_out_of_range_behind_or_doubled_are_refused_and_change_nothing() -> None:
    barrier = _barrier(2, steps=10)
    assert _code(barrier, 0, 10) is ExchangeCode.WRONG_STEP
    assert _code(barrier, 0, -1) is ExchangeCode.WRONG_STEP
    _post(barrier, 0, 4)
    assert _code(barrier, 0, 4) is ExchangeCode.DUPLICATE_FRAME
    assert _code(barrier, 0, 3) is ExchangeCode.WRONG_STEP
    assert _code(barrier, 0, 5) is ExchangeCode.WRONG_STEP, "step 4 is unanswered"
    assert _post(barrier, 1, 4) == [[0, 1]]
    assert _code(barrier, 0, 4) is ExchangeCode.DUPLICATE_FRAME


def test_closing_gives_back_every_open_step() -> None:
    barrier = _barrier(3)
    _post(barrier, 0, 0)
    _post(barrier, 1, 1)
    assert [closed.step for closed in barrier.close()] == [0, 1]
    assert barrier.next_deadline is None


def test_a_site_goes_on_while_its_frames_are_unanswered_up_to_the_bound() -> None:
    barrier = _barrier(2, staleness=2)
    for step in (0, 1, 2):
        assert _post(barrier, 0, step) == []
    assert _code(barrier, 0, 3) is ExchangeCode.WRONG_STEP, "three frames are unanswered"
    assert _post(barrier, 1, 0) == [[0, 1]]
    assert _post(barrier, 0, 3) == []
    assert _post(barrier, 1, 1) == [[0, 1]]


def test_a_stale_round_still_compares_frames_of_one_step_alone() -> None:
    barrier = _barrier(2, staleness=3)
    for step in range(3):
        barrier.post(0, step, f"0@{step}", now=0.0)
    for step in range(3):
        barrier.post(1, step, f"1@{step}", now=0.0)
        (closed,) = barrier.collect()
        assert closed.entries == [(0, f"0@{step}"), (1, f"1@{step}")]


def test_a_step_waits_on_for_a_site_that_is_on_its_way_to_it() -> None:
    barrier = _barrier(2, staleness=2)
    for step in (0, 1, 2):
        _post(barrier, 0, step, now=0.0)
    assert _post(barrier, 1, 0, now=9.0) == [[0, 1]]
    assert barrier.expire(10.0) == [], "the deadlines of steps 1 and 2 count from 9 s"
    assert [closed.step for closed in barrier.expire(19.0)] == [1, 2]


def test_in_lockstep_a_site_that_lags_does_not_hold_up_a_later_step() -> None:
    barrier = _barrier(3)
    _post(barrier, 0, 5, now=0.0)
    _post(barrier, 1, 4, now=9.0)
    (closed,) = barrier.expire(10.0)
    assert closed.step == 5


def test_leaving_withdraws_all_unanswered_frames_and_they_may_be_posted_again() -> None:
    barrier = _barrier(2, staleness=2)
    for step in (0, 1, 2):
        _post(barrier, 0, step)
    barrier.withdraw(0)
    assert barrier.next_deadline is None
    for step in (0, 1, 2):
        assert _post(barrier, 0, step) == []
    assert _post(barrier, 1, 0) == [[0, 1]]


@settings(deadline=None, max_examples=200)
@given(rng=st.randoms(use_true_random=False), sites=st.integers(1, 5), staleness=st.integers(0, 3))
def test_whatever_happens_each_accepted_frame_is_closed_or_withdrawn_exactly_once(
    rng: random.Random, sites: int, staleness: int
) -> None:
    barrier, now = _barrier(sites, steps=8, missed=2, staleness=staleness), 0.0
    waiting: dict[int, set[int]] = {site: set() for site in range(sites)}
    for _ in range(60):
        now += rng.random() * 3
        site, step = rng.randrange(sites), rng.randrange(8)
        action = rng.choice(["post", "post", "post", "withdraw", "expire"])
        closed = []
        if action == "post":
            try:
                barrier.post(site, step, "", now=now)
                waiting[site].add(step)
                assert len(waiting[site]) <= staleness + 1, "which bounds the hub's memory"
            except FrameRefused:
                pass
        elif action == "withdraw":
            barrier.withdraw(site)
            waiting[site].clear()
        else:
            closed = barrier.expire(now)
        for done in closed + barrier.collect():
            assert done.entries
            for index, _entry in done.entries:
                waiting[index].remove(done.step)
        assert (barrier.next_deadline is None) == (not any(waiting.values()))
    left = [(index, done.step) for done in barrier.close() for index, _ in done.entries]
    assert sorted(left) == sorted((s, step) for s, steps in waiting.items() for step in steps)

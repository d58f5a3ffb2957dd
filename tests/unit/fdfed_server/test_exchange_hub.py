import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.errors import InvalidInput
from fdfed.exchange import (
    CotangentFrame,
    ExchangeCode,
    FrameRefused,
    PrototypeFrame,
    StepKey,
    TapLayout,
)
from fdfed_server.hub import ExchangeHub
from fdfed_server.in_process import InProcessExchange
from fdfed_server.terms import Terms, cross_site_terms

LAYOUT = TapLayout(("Enc1", "Bot"), (3, 2))
SITES = ("ad", "tnbc", "udiat")


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub(clock: Clock) -> Iterator[ExchangeHub]:
    hub = ExchangeHub(cross_site_terms, clock=clock)
    yield hub
    hub.close()


def _open(hub: ExchangeHub, **changes: Any) -> None:
    settings_: dict[str, Any] = {
        "sites": SITES,
        "layout": LAYOUT,
        "steps": 10,
        "deadline_seconds": 30.0,
        "max_missed_steps": 2,
        "dtype": np.float64,
    }
    hub.open_round("run", 1, 0, **(settings_ | changes))


def _frame(
    site: str, step: int = 0, *, server_round: int = 1, dtype: Any = np.float64
) -> PrototypeFrame:
    rng = np.random.default_rng([step, *site.encode()])
    vector = rng.normal(size=LAYOUT.size).astype(dtype)
    return PrototypeFrame(StepKey("run", server_round, 0, step), vector, np.ones(2, np.bool_))


def _code(future: Future[CotangentFrame]) -> ExchangeCode:
    error = future.exception(timeout=0)
    assert isinstance(error, FrameRefused)
    return error.code


def test_the_last_site_completes_the_step_and_all_get_the_terms(hub: ExchangeHub) -> None:
    _open(hub)
    frames = [_frame(site) for site in SITES]
    first, second = (hub.submit(s, f) for s, f in zip(SITES[:2], frames[:2], strict=True))
    assert not first.done()
    assert not second.done()
    replies = [f.result(0) for f in (first, second, hub.submit(SITES[2], frames[2]))]
    terms = cross_site_terms(
        LAYOUT, np.stack([f.vector for f in frames]), np.ones((3, 2), np.bool_)
    )
    for reply, frame, cotangents, site_terms in zip(
        replies, frames, terms.cotangents, terms.site_terms, strict=True
    ):
        assert reply.key == frame.key
        assert reply.peers == 2
        assert reply.vector.tobytes() == cotangents.tobytes()
        assert reply.pair_terms.tobytes() == terms.pair_terms.tobytes()
        assert reply.site_terms.tobytes() == site_terms.tobytes()


@settings(deadline=None, max_examples=30)
@given(order=st.permutations(range(5)))
def test_any_order_of_arrival_gives_identical_bytes(order: list[int]) -> None:
    sites = [f"site{index}" for index in range(5)]

    def replies(arrival: list[int]) -> list[bytes]:
        hub = ExchangeHub(cross_site_terms)
        _open(hub, sites=sites)
        futures = {index: hub.submit(sites[index], _frame(sites[index])) for index in arrival}
        frames = [futures[index].result(0) for index in range(5)]
        hub.close()
        return [f.to_proto().SerializeToString(deterministic=True) for f in frames]

    assert replies(order) == replies(list(range(5)))


def test_relabelling_the_sites_permutes_the_cotangents_and_keeps_the_terms() -> None:
    vectors = {name: _frame(name).vector for name in SITES}
    results = []
    for sites in (SITES, SITES[::-1]):
        hub = ExchangeHub(cross_site_terms)
        _open(hub, sites=sites)
        futures = {site: hub.submit(site, _frame(site)) for site in sites}
        results.append({site: future.result(0) for site, future in futures.items()})
        hub.close()
    assert all(vectors)
    for site in SITES:
        one, other = (result[site] for result in results)
        np.testing.assert_allclose(one.vector, other.vector, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(one.site_terms, other.site_terms, rtol=1e-12)
        np.testing.assert_allclose(one.pair_terms, other.pair_terms, rtol=1e-12)


def test_the_reply_has_the_frames_dtype_and_the_maths_is_in_fp64() -> None:
    seen: list[Any] = []

    def terms(layout: TapLayout, vectors: np.ndarray, valid: np.ndarray) -> Terms:
        seen.append(vectors.dtype)
        return cross_site_terms(layout, vectors, valid)

    hub = ExchangeHub(terms)
    _open(hub, sites=SITES[:2], dtype=np.float32)
    futures = [hub.submit(site, _frame(site, dtype=np.float32)) for site in SITES[:2]]
    assert [future.result(0).vector.dtype for future in futures] == [np.float32] * 2
    assert seen == [np.float64]
    hub.close()


def test_past_the_deadline_the_answer_comes_from_those_who_are_there(
    hub: ExchangeHub, clock: Clock
) -> None:
    _open(hub)
    futures = [hub.submit(site, _frame(site)) for site in SITES[:2]]
    clock.now = 30.0
    assert hub.expire() is None
    assert [future.result(0).peers for future in futures] == [1, 1]
    assert _code(hub.submit(SITES[2], _frame(SITES[2]))) is ExchangeCode.TOO_LATE
    snapshot = hub.snapshot()
    assert (snapshot.steps_complete, snapshot.steps_past_deadline) == (0, 1)


def test_a_site_alone_gets_zero_cotangents_and_no_term(hub: ExchangeHub, clock: Clock) -> None:
    _open(hub)
    future = hub.submit(SITES[0], _frame(SITES[0]))
    clock.now = 30.0
    hub.expire()
    reply = future.result(0)
    assert reply.peers == 0
    assert not reply.vector.any()
    assert np.isnan(reply.pair_terms).all()
    assert np.isnan(reply.site_terms).all()


def test_a_deadline_is_kept_by_the_hubs_own_thread() -> None:
    hub = ExchangeHub(cross_site_terms)
    _open(hub, deadline_seconds=0.05)
    for step in (0, 1):
        assert hub.submit(SITES[0], _frame(SITES[0], step)).result(timeout=5).peers == 0
    hub.close()


def test_an_absent_site_is_not_waited_for_until_it_posts_again(hub: ExchangeHub) -> None:
    _open(hub, sites=SITES[:2])
    hub.disconnect(SITES[1])
    assert hub.snapshot().absent == (SITES[1],)
    assert hub.submit(SITES[0], _frame(SITES[0], 0)).result(0).peers == 0
    early = hub.submit(SITES[1], _frame(SITES[1], 1))
    assert hub.snapshot().absent == ()
    assert hub.submit(SITES[0], _frame(SITES[0], 1)).result(0).peers == 1
    assert early.result(0).peers == 1
    waiting = hub.submit(SITES[0], _frame(SITES[0], 2))
    assert not waiting.done()
    assert hub.submit(SITES[1], _frame(SITES[1], 2)).result(0).peers == 1
    assert waiting.result(0).peers == 1


def test_a_site_that_leaves_releases_those_who_wait_for_it(hub: ExchangeHub) -> None:
    _open(hub, sites=SITES[:2])
    waiting = hub.submit(SITES[0], _frame(SITES[0]))
    hub.disconnect(SITES[1])
    assert waiting.result(0).peers == 0


def test_a_site_that_misses_too_many_steps_is_refused_as_absent(
    hub: ExchangeHub, clock: Clock
) -> None:
    _open(hub, sites=SITES[:2])
    for step in range(2):
        hub.submit(SITES[0], _frame(SITES[0], step))
        clock.now += 30.0
        hub.expire()
    assert _code(hub.submit(SITES[1], _frame(SITES[1], 2))) is ExchangeCode.ABSENT
    hub.close_round()
    hub.open_round(
        "run",
        2,
        0,
        sites=SITES[:2],
        layout=LAYOUT,
        steps=1,
        deadline_seconds=30.0,
        max_missed_steps=2,
        dtype=np.float64,
    )
    assert hub.snapshot().present == SITES[:2], "a new round starts with everyone"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (_frame("ad", server_round=2), ExchangeCode.WRONG_ROUND),
        (
            PrototypeFrame(StepKey("run", 1, 1, 0), np.zeros(10), np.ones(2, np.bool_)),
            ExchangeCode.WRONG_ROUND,
        ),
        (
            PrototypeFrame(StepKey("other", 1, 0, 0), np.zeros(10), np.ones(2, np.bool_)),
            ExchangeCode.WRONG_ROUND,
        ),
        (_frame("ad", 10), ExchangeCode.WRONG_STEP),
        (_frame("ad", dtype=np.float32), ExchangeCode.WRONG_TYPE),
        (
            PrototypeFrame(StepKey("run", 1, 0, 0), np.zeros(8), np.ones(2, np.bool_)),
            ExchangeCode.WRONG_SHAPE,
        ),
        (
            PrototypeFrame(StepKey("run", 1, 0, 0), np.zeros(10), np.ones(3, np.bool_)),
            ExchangeCode.WRONG_SHAPE,
        ),
        (
            PrototypeFrame(StepKey("run", 1, 0, 0), np.full(10, np.nan), np.ones(2, np.bool_)),
            ExchangeCode.NOT_FINITE,
        ),
        (
            PrototypeFrame(StepKey("run", 1, 0, 0), np.full(10, 1e13), np.ones(2, np.bool_)),
            ExchangeCode.TOO_LARGE,
        ),
    ],
)
def test_a_frame_that_does_not_fit_is_refused_and_disturbs_nobody(
    hub: ExchangeHub, frame: PrototypeFrame, code: ExchangeCode
) -> None:
    _open(hub, sites=SITES[:2])
    waiting = hub.submit("tnbc", _frame("tnbc"))
    assert _code(hub.submit("ad", frame)) is code
    assert hub.snapshot().refused == {code: 1}
    assert not waiting.done()
    assert hub.submit("ad", _frame("ad")).result(0).peers == 1
    assert waiting.result(0).peers == 1


def test_a_second_frame_for_one_step_is_refused_and_the_first_counts(hub: ExchangeHub) -> None:
    _open(hub, sites=SITES[:2])
    first = hub.submit("ad", _frame("ad"))
    assert _code(hub.submit("ad", _frame("ad"))) is ExchangeCode.DUPLICATE_FRAME
    hub.submit("tnbc", _frame("tnbc"))
    assert first.result(0).peers == 1


def test_a_site_that_repeats_a_refused_frame_is_logged_once_a_round(
    hub: ExchangeHub, caplog: pytest.LogCaptureFixture
) -> None:
    _open(hub)
    for _ in range(50):
        hub.submit("ad", _frame("ad", server_round=7))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert hub.snapshot().refused == {ExchangeCode.WRONG_ROUND: 50}


def test_a_site_without_a_part_in_the_round_is_refused(hub: ExchangeHub) -> None:
    assert _code(hub.submit("ad", _frame("ad"))) is ExchangeCode.WRONG_ROUND
    _open(hub, sites=SITES[:2])
    assert _code(hub.submit("udiat", _frame("udiat"))) is ExchangeCode.WRONG_ROUND
    hub.disconnect("udiat")
    assert hub.snapshot().present == SITES[:2]


def test_closing_a_round_refuses_what_still_waits(hub: ExchangeHub) -> None:
    _open(hub)
    waiting = hub.submit("ad", _frame("ad"))
    hub.close_round()
    assert _code(waiting) is ExchangeCode.ROUND_CLOSED
    hub.close_round()
    _open(hub)


def test_terms_that_fail_drop_the_step_and_the_hub_lives_on(clock: Clock) -> None:
    failures: list[Callable[[np.ndarray], Terms]] = [
        lambda v: (_ for _ in ()).throw(RuntimeError("a bug")),
        lambda v: Terms(np.zeros(2), np.zeros((2, 2)), np.full_like(v, np.inf)),
    ]

    def terms(layout: TapLayout, vectors: np.ndarray, valid: np.ndarray) -> Terms:
        return failures.pop()(vectors) if failures else cross_site_terms(layout, vectors, valid)

    hub = ExchangeHub(terms, clock=clock)
    _open(hub, sites=SITES[:2])
    for step in (0, 1):
        futures = [hub.submit(site, _frame(site, step)) for site in SITES[:2]]
        assert [_code(future) for future in futures] == [ExchangeCode.INTERNAL] * 2
    futures = [hub.submit(site, _frame(site, 2)) for site in SITES[:2]]
    assert [future.result(0).peers for future in futures] == [1, 1]
    hub.close()


def test_counters_tell_frames_bytes_and_the_latest_term_of_each_tap(hub: ExchangeHub) -> None:
    _open(hub, sites=SITES[:2])
    futures = [hub.submit(site, _frame(site)) for site in SITES[:2]]
    reply = futures[0].result(0)
    snapshot = hub.snapshot()
    assert (snapshot.frames_in, snapshot.frames_out, snapshot.steps_complete) == (2, 2, 1)
    assert snapshot.bytes_in == 2 * (10 * 8 + 2)
    assert snapshot.bytes_out == 2 * (10 * 8 + 2 * 2 * 8)
    assert snapshot.latest_terms == dict(zip(LAYOUT.names, reply.pair_terms.tolist(), strict=True))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"sites": ()}, "at least one site"),
        ({"sites": ("a", "a")}, "each once"),
        ({"steps": 0}, "must be above 0"),
        ({"deadline_seconds": 0.0}, "must be above 0"),
        ({"max_missed_steps": 0}, "must be above 0"),
        ({"max_staleness": -1}, "max_staleness is -1"),
        ({"max_staleness": 17}, "not in 0 to 16"),
        ({"dtype": np.float16}, "float32 or float64"),
    ],
)
def test_a_round_that_cannot_be_is_refused(
    hub: ExchangeHub, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidInput, match=text):
        _open(hub, **changes)


def test_a_second_round_needs_the_first_closed(hub: ExchangeHub) -> None:
    _open(hub)
    with pytest.raises(InvalidInput, match=r"close_round\(\) comes first"):
        _open(hub)


def test_sites_in_threads_swap_through_a_whole_round_in_process() -> None:
    hub = ExchangeHub(cross_site_terms)
    _open(hub, steps=50)
    stats = {}

    def train(site: str) -> None:
        exchange = InProcessExchange(hub, site)
        for step in range(50):
            reply = exchange.swap(_frame(site, step))
            assert reply is not None
            assert reply.peers == 2
        stats[site] = exchange.take_stats()

    threads = [threading.Thread(target=train, args=(site,)) for site in SITES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert {s.answered for s in stats.values()} == {50}
    assert all(s.peers_mean == 2 and s.swap_ms_p50 > 0 for s in stats.values())
    hub.close()


def test_in_process_a_dropped_step_is_none_and_a_wrong_frame_is_an_error(
    hub: ExchangeHub,
) -> None:
    exchange = InProcessExchange(hub, "ad")
    assert exchange.swap(_frame("ad")) is None, "no round is open"
    _open(hub, sites=("ad",))
    with pytest.raises(FrameRefused, match="WRONG_TYPE"):
        exchange.swap(_frame("ad", dtype=np.float32))
    stats = exchange.take_stats()
    assert (stats.steps, stats.dropped) == (2, 2)
    exchange.close()
    assert hub.snapshot().absent == ("ad",)


def test_nothing_is_computed_under_the_lock() -> None:
    inside, leave = threading.Event(), threading.Event()

    def terms(layout: TapLayout, vectors: np.ndarray, valid: np.ndarray) -> Terms:
        inside.set()
        assert leave.wait(5)
        return cross_site_terms(layout, vectors, valid)

    hub = ExchangeHub(terms)
    _open(hub, sites=SITES[:2])
    futures = [hub.submit(SITES[0], _frame(SITES[0]))]
    thread = threading.Thread(target=lambda: futures.append(hub.submit("tnbc", _frame("tnbc"))))
    thread.start()
    assert inside.wait(5)
    start = time.perf_counter()
    assert hub.snapshot().frames_in == 2
    assert time.perf_counter() - start < 2
    leave.set()
    thread.join(5)
    assert futures[0].result(5).peers == 1
    hub.close()


def _train_together(
    steps: int, *, max_staleness: int, delay_steps: float
) -> dict[str, list[tuple[int, bytes]]]:
    """Two sites in threads of their own: the age and the bytes of each reply that they used."""
    hub = ExchangeHub(cross_site_terms)
    _open(hub, sites=SITES[:2], steps=steps, max_staleness=max_staleness)
    used: dict[str, list[tuple[int, bytes]]] = {site: [] for site in SITES[:2]}

    def train(site: str) -> None:
        exchange = InProcessExchange(
            hub, site, max_staleness=max_staleness, delay_steps=delay_steps
        )
        for step in range(steps):
            reply = exchange.swap(_frame(site, step))
            assert reply is not None
            used[site].append((step - reply.key.step, reply.vector.tobytes()))
        stats = exchange.take_stats()
        ages = [age for age, _ in used[site]]
        assert (stats.answered, stats.staleness_max) == (steps, max(ages))
        assert stats.staleness_mean == sum(ages) / steps

    threads = [threading.Thread(target=train, args=(site,)) for site in used]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    hub.close()
    return used


def test_in_process_a_reply_is_late_by_the_modelled_delay_and_by_nothing_else() -> None:
    late = _train_together(12, max_staleness=3, delay_steps=2.0)
    lockstep = _train_together(12, max_staleness=0, delay_steps=0.0)
    for site, replies in late.items():
        # Step 0 waits for its own reply, at 2 steps; the others come up to 2 steps late from there.
        assert [age for age, _ in replies] == [0, 1, 2, *[2] * 9]
        for step, (age, vector) in enumerate(replies):
            assert vector == lockstep[site][step - age][1]


@pytest.mark.parametrize("bound", [1, 5])
def test_replies_that_take_no_time_make_a_stale_round_a_lockstep_one(bound: int) -> None:
    late = _train_together(10, max_staleness=bound, delay_steps=0.0)
    assert late == _train_together(10, max_staleness=0, delay_steps=0.0)


def test_a_site_may_have_as_many_frames_at_the_hub_as_the_round_allows(hub: ExchangeHub) -> None:
    _open(hub, sites=SITES[:2], max_staleness=2)
    ahead = [hub.submit("ad", _frame("ad", step)) for step in range(4)]
    assert _code(ahead.pop()) is ExchangeCode.WRONG_STEP
    for step in range(3):
        hub.submit("tnbc", _frame("tnbc", step))
    assert [future.result(0).key.step for future in ahead] == [0, 1, 2]

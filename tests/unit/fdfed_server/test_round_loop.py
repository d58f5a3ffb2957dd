"""The round loop against a grid whose nodes come, go and answer as a test says."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Error, RecordDict

from fdfed.config import RunPlan
from fdfed.errors import ConnectionFailed, QuorumNotMet
from fdfed_server import asking, rounds
from fdfed_server.event_log import EventLog
from fdfed_server.hub import ExchangeHub
from fdfed_server.observer import Observer, Several
from fdfed_server.rounds import RoundLoop, RunOutcome
from fdfed_server.run_state import RunState, load_state
from fdfed_server.strategy import Strategy
from tests.unit.fdfed_server.scripted_grid import (
    Answer,
    ScriptedGrid,
    Told,
    good,
    plan_of,
    prepared,
)


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_GRACE_SECONDS", 0.02)


def run(
    grid: ScriptedGrid,
    plan: RunPlan,
    *,
    state: RunState | None = None,
    told: Observer | None = None,
) -> RunOutcome:
    strategy = Strategy(plan)
    hub = ExchangeHub(strategy.cross_site_terms)
    loop = RoundLoop(strategy, hub, folder=None, observer=told, poll_seconds=0.001)
    try:
        return loop.run(grid, state or strategy.initial_state("ab" * 8))
    finally:
        hub.close()


class Interrupted(Observer):
    """Keeps the state of the loop's first round by ending the run there."""

    def round_started(self, server_round: int, phase: int, attempt: int) -> None:
        if server_round == 2:
            raise KeyboardInterrupt


def after_round_1(plan: RunPlan) -> RunState:
    with tempfile.TemporaryDirectory() as folder:
        strategy = Strategy(plan)
        hub = ExchangeHub(strategy.cross_site_terms)
        loop = RoundLoop(
            strategy, hub, folder=Path(folder), observer=Interrupted(), poll_seconds=0.001
        )
        with pytest.raises(KeyboardInterrupt):
            loop.run(ScriptedGrid(["a", "b"]), strategy.initial_state("ab" * 8))
        hub.close()
        state = load_state(Path(folder))
    assert state is not None
    return state


def test_an_undisturbed_run_is_told_in_its_order() -> None:
    told = Told()
    outcome = run(ScriptedGrid(["b", "a"]), plan_of(), told=told)
    assert told.events == [
        *("run after 0", "prepared a", "prepared b"),
        *("round 1.1", "a 1", "b 1", "finished 1"),
        *("round 2.1", "a 2", "b 2", "finished 2", "tested a,b"),
    ]
    assert outcome.state.finished
    assert set(outcome.sites) == set(outcome.test) == {"a", "b"}


def test_the_time_to_aggregate_is_told_without_the_waiting_for_replies() -> None:
    found: dict[int, float] = {}

    class Timed(Observer):
        def updates_aggregated(self, server_round: int, seconds: float) -> None:
            found[server_round] = seconds

    def late(site: str, record: RecordDict) -> RecordDict:
        time.sleep(0.5)
        return good(site, "train", record)

    run(ScriptedGrid(["a", "b"], answers={("b", "train"): late}), plan_of(), told=Timed())
    assert set(found) == {1, 2}
    assert all(0 < seconds < 0.5 for seconds in found.values())


def test_a_run_waits_for_all_its_sites_before_it_begins_whatever_the_quorum() -> None:
    looks = 0

    def arrive(grid: ScriptedGrid) -> None:
        nonlocal looks
        looks += 1
        if looks == 5:
            grid.online.append("b")

    grid, told = ScriptedGrid(["a"], on_look=arrive), Told()
    run(grid, plan_of(quorum=1), told=told)
    assert told.events[:5] == [
        *("run after 0", "waiting for b", "waiting for ", "prepared a", "prepared b"),
    ]
    assert grid.sent[0] == ("a", "query.prepare")


def test_a_site_that_is_removed_in_a_round_enters_no_sum_and_is_asked_no_more() -> None:
    strategy, told = Strategy(plan_of(sites=["a", "b", "c"], rounds=2)), Told()
    hub = ExchangeHub(strategy.cross_site_terms)

    def remove_c(site: str, record: RecordDict) -> RecordDict:
        # While b answers; c has answered well, and its answer waits to be read.
        strategy.leave_out({"c"})
        return good(site, "train", record)

    grid = ScriptedGrid(["a", "b", "c"], answers={("b", "train"): remove_c})
    loop = RoundLoop(strategy, hub, folder=None, observer=told, poll_seconds=0.001)
    outcome = loop.run(grid, strategy.initial_state("ab" * 8))
    hub.close()
    assert "c 1: the consortium has removed it from the roster" in told.events
    assert "finished 1" in told.events, "all three were the quorum; two of the two left are"
    assert grid.sent.count(("c", "train")) == 1
    assert set(outcome.test) == {"a", "b"}


def test_a_run_that_goes_on_does_so_with_a_quorum() -> None:
    told = Told()
    state = after_round_1(plan_of(quorum=1))
    outcome = run(ScriptedGrid(["a"]), plan_of(quorum=1), state=state, told=told)
    assert told.events[:2] == ["run after 1", "waiting for b"]
    assert outcome.state.history[-1].sites.keys() == {"a"}


def test_a_site_that_stays_away_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_GRACE_SECONDS", 2.0)
    plan = plan_of(quorum=1, rounds=6)
    began = time.monotonic()
    outcome = run(ScriptedGrid(["a"]), plan, state=after_round_1(plan))
    assert len(outcome.state.history) == 6
    assert 2.0 <= time.monotonic() - began < 3 * 2.0


def test_a_site_that_joins_late_is_prepared_and_takes_part() -> None:
    plan = plan_of(quorum=1, rounds=4)

    def arrive(grid: ScriptedGrid) -> None:
        if grid.sent.count(("a", "train")) == 1 and "b" not in grid.online:
            grid.online.append("b")

    told = Told()
    grid = ScriptedGrid(["a"], on_look=arrive)
    outcome = run(grid, plan, state=after_round_1(plan), told=told)
    assert [set(record.sites) for record in outcome.state.history[1:]] == [
        {"a"},
        {"a", "b"},
        {"a", "b"},
    ]
    assert told.events.count("prepared b") == 1


def test_nodes_that_the_plan_does_not_name_are_never_asked() -> None:
    grid = ScriptedGrid(["a", "z", "b"])
    run(grid, plan_of())
    assert {site for site, _ in grid.sent} == {"a", "b"}


def error(reason: str) -> Answer:
    return lambda *_: Error(2, reason)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (error("DataError"), "b: DataError"),
        (error(""), "b: Flower error 2"),
        (lambda *_: prepared("a").to_record(), "b: it calls itself 'a'"),
        (
            lambda *_: replace(prepared("b"), phantoms=True).to_record(),
            "b: its images are phantoms and the plan's are not",
        ),
        (lambda *_: replace(prepared("b"), num_train=0).to_record(), "b: it has no training image"),
        (lambda *_: RecordDict(), "b: a 'prepared' message without"),
    ],
)
def test_a_site_that_does_not_fit_the_plan_is_named_with_its_reason(
    answer: Answer, why: str
) -> None:
    grid = ScriptedGrid(["a", "b"], {("b", "query.prepare"): answer})
    with pytest.raises(ConnectionFailed, match=r"1 site\(s\) accepted the plan, 2 are") as err:
        run(grid, plan_of())
    assert why in str(err.value)
    assert ("a", "train") not in grid.sent


def test_a_site_that_refuses_the_plan_does_not_stop_a_quorum_without_it() -> None:
    grid = ScriptedGrid(["a", "b"], {("b", "query.prepare"): error("RefusedByPolicy")})
    outcome = run(grid, plan_of(quorum=1))
    assert set(outcome.sites) == {"a"}
    assert ("b", "train") not in grid.sent


def failing_times(count: int, reason: str = "ExchangeIncomplete") -> Answer:
    failed = 0

    def answer(site: str, record: RecordDict) -> RecordDict | Error:
        nonlocal failed
        if failed < count:
            failed += 1
            return Error(2, reason)
        return good(site, "train", record)

    return answer


def test_a_round_under_quorum_is_repeated_and_told() -> None:
    grid, told = ScriptedGrid(["a", "b"], {("b", "train"): failing_times(2)}), Told()
    outcome = run(grid, plan_of(), told=told)
    assert told.events[3:14] == [
        *("round 1.1", "a 1", "b 1: ExchangeIncomplete", "failed 1.1"),
        *("round 1.2", "a 1", "b 1: ExchangeIncomplete", "failed 1.2"),
        *("round 1.3", "a 1", "b 1"),
    ]
    assert [record.attempt for record in outcome.state.history] == [3, 1]


def in_turn(kind: str, *answers: Error | None) -> Answer:
    """Gives these answers one after the other, where there is none a good one; then good ones."""
    left = list(answers)

    def answer(site: str, record: RecordDict) -> RecordDict | Error:
        given = left.pop(0) if left else None
        return good(site, kind, record) if given is None else given

    return answer


GONE = Error(5, "node unavailable")


def test_after_a_failed_attempt_the_next_one_waits_until_the_sites_answer() -> None:
    # It is online by its heartbeat for a while yet, and answers nothing.
    answers = {
        ("b", "train"): in_turn("train", GONE),
        ("b", "query.prepare"): in_turn("query.prepare", None, GONE, GONE),
    }
    grid, told = ScriptedGrid(["a", "b"], answers), Told()
    outcome = run(grid, plan_of(attempts=2), told=told)
    assert [record.attempt for record in outcome.state.history] == [2, 1]
    assert told.events.count("prepared b") == 1
    assert [kind for site, kind in grid.sent if site == "b"][:6] == [
        *("query.prepare", "train", "query.prepare", "query.prepare", "query.prepare", "train")
    ]


def test_a_site_that_answers_no_roll_call_is_left_out_of_an_attempt_with_a_quorum() -> None:
    answers = {
        ("a", "train"): in_turn("train", Error(2, "DataError")),
        ("b", "train"): in_turn("train", GONE),
        ("b", "query.prepare"): in_turn("query.prepare", None, GONE),
    }
    grid = ScriptedGrid(["a", "b"], answers)
    outcome = run(grid, plan_of(quorum=1))
    assert [set(record.sites) for record in outcome.state.history] == [{"a"}, {"a", "b"}]


def test_a_site_that_never_answers_a_roll_call_does_not_hold_the_end_of_the_run() -> None:
    answers = {
        ("b", "train"): lambda *_: GONE,
        ("b", "query.prepare"): in_turn("query.prepare", None, *[GONE] * 9),
    }
    with pytest.raises(QuorumNotMet, match="b: node unavailable"):
        run(ScriptedGrid(["a", "b"], answers), plan_of(attempts=3))


def test_after_its_attempts_a_round_under_quorum_ends_the_run_with_every_reason() -> None:
    grid, told = ScriptedGrid(["a", "b"], {("b", "train"): failing_times(9)}), Told()
    with pytest.raises(QuorumNotMet, match=r"round 1, attempt 2: .*b: ExchangeIncomplete"):
        run(grid, plan_of(attempts=2), told=told)
    assert told.events[-1] == "failed 1.2"


def test_a_site_that_does_not_answer_is_left_out_at_the_deadline() -> None:
    grid = ScriptedGrid(["a", "b"], {("b", "train"): lambda *_: None})
    outcome = run(grid, plan_of(quorum=1, rounds=1, round_deadline_seconds=0.05))
    assert outcome.state.history[0].sites["b"].refused == "no reply before the deadline"


def test_what_a_site_says_of_its_failure_is_one_printable_line_of_bounded_length() -> None:
    words = "\x1b[2J\nERROR coordinator hacked\r\n" + "x" * 5000
    grid = ScriptedGrid(["a", "b"], {("b", "train"): error(words)})
    outcome = run(grid, plan_of(quorum=1, rounds=1))
    refused = outcome.state.history[0].sites["b"].refused
    assert refused is not None
    assert len(refused) <= 201
    assert refused.isprintable()


def test_scores_that_are_missing_or_malformed_are_told_and_do_not_stop_the_round() -> None:
    told = Told()
    grid = ScriptedGrid(
        ["a", "b"],
        {("a", "evaluate"): error("InvalidInput"), ("b", "evaluate"): lambda *_: RecordDict()},
    )
    outcome = run(grid, plan_of(rounds=1), told=told)
    assert "a 1: InvalidInput" in told.events
    assert "b 1: its validation scores are not of the agreed form" in told.events
    assert outcome.state.history[0].mean_val_dice is None
    assert outcome.test == {}


def test_where_nobody_is_asked_nothing_is_sent() -> None:
    grid = ScriptedGrid(["a", "b"])
    grid.push_messages = None  # type: ignore[method-assign, assignment]
    asked = asking.ask(
        grid, {}, {}, kind="query.prepare", group=1, deadline_seconds=1.0, poll_seconds=0.01
    )
    assert list(asked) == []


def test_one_encoding_serves_all_sites_with_the_same_instruction() -> None:
    records: list[RecordDict] = []

    def remember(site: str, record: RecordDict) -> RecordDict:
        records.append(record)
        return good(site, "train", record)

    run(
        ScriptedGrid(["a", "b"], {("a", "train"): remember, ("b", "train"): remember}),
        plan_of(rounds=1),
    )
    assert records[0] is records[1]


def test_every_observer_hears_everything_in_turn() -> None:
    first, second = Told(), Told()
    run(ScriptedGrid(["a", "b"]), plan_of(), told=Several((first, second)))
    assert first.events == second.events
    assert first.events[-1] == "tested a,b"


def test_the_log_names_failures_as_warnings_with_their_fields(
    caplog: pytest.LogCaptureFixture,
) -> None:
    grid = ScriptedGrid(["a", "b"], {("b", "train"): failing_times(1, "DataError")})
    with caplog.at_level(logging.INFO, logger="fdfed_server"):
        run(grid, plan_of(quorum=1), told=EventLog())
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == [
        "round 1: b: DataError",
        "round 1: b was left out: DataError",
    ]
    assert (warnings[0].site, warnings[0].server_round) == ("b", 1)  # type: ignore[attr-defined]
    text = caplog.text
    assert "run of 2 rounds, strategy fedavg, loss seg, on the sites' images" in text
    assert "a is ready: 10 training, 3 validation, 4 test images" in text
    assert "round 2 is complete: validation Dice 0.500" in text
    assert "2 site(s) scored the final model" in text

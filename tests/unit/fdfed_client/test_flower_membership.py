"""How an agent keeps its membership: what it waits out, what it joins again, what ends it."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from fdfed.errors import CryptoError
from fdfed_client.flower.fleet import Fleet, clock_difference
from fdfed_client.flower.link import Heartbeat, Link, MembershipLost, RequestRefused, Stopping


def _status(code: int, headers: dict[str, str] | None = None) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://h")
    response = httpx.Response(code, headers=headers, request=request)
    return httpx.HTTPStatusError(str(code), request=request, response=response)


class _Fleet(Fleet):
    """A coordinator that answers `activate` from a list."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.left: list[int] = []

    def activate(self) -> int:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def deactivate(self, node_id: int) -> None:
        self.left.append(node_id)


class _Link(Link):
    """A link that keeps what it tells, and waits for hardly any time."""

    def __init__(
        self, *answers: int | Exception, patience: float = 0.0, stop: threading.Event | None = None
    ) -> None:
        self.told: list[str] = []
        self.stop = stop or threading.Event()
        self.fleet = _Fleet(*answers)
        super().__init__(
            self.fleet,
            server="h:1",
            stop=self.stop,
            heartbeat_seconds=10,
            patience=patience,
            tell=self.told.append,
        )


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FIRST_PAUSE", "_LONGEST_PAUSE", "_REJOIN_PAUSE"):
        monkeypatch.setattr(f"fdfed_client.flower.link.{name}", 0.001)


def _failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call


@pytest.mark.parametrize(
    "error",
    [
        _status(500),
        _status(503),
        httpx.ConnectError("x"),
        httpx.ReadTimeout("x"),
        httpx.RemoteProtocolError("x"),
        ValueError("Invalid protobuf response payload"),
    ],
)
def test_an_outage_is_waited_out_and_told_once(error: Exception) -> None:
    link = _Link(1)
    assert link.persist(_failing(*[error] * 20)) == "done"
    assert len(link.told) == 2
    assert "trying again" in link.told[0]
    assert link.told[1] == "h:1 answers again"


def test_one_message_does_not_wait_for_ever_on_a_server_error() -> None:
    link = _Link(1)
    assert link.attempt(_failing(*[_status(500)] * 7)) == "done"
    with pytest.raises(RequestRefused, match="HTTP 500"):
        link.attempt(_failing(*[_status(500)] * 8))


def test_one_message_does_wait_for_a_coordinator_that_is_away() -> None:
    assert _Link(1).attempt(_failing(*[httpx.ConnectError("x")] * 50)) == "done"


def test_a_401_asks_to_join_again_and_sends_this_process_no_signal() -> None:
    with pytest.raises(MembershipLost):
        _Link(1).persist(_failing(_status(401)))


@pytest.mark.parametrize("code", [400, 403, 404, 412])
def test_another_4xx_is_final_for_its_request(code: int) -> None:
    with pytest.raises(RequestRefused, match=f"HTTP {code}"):
        _Link(1).persist(_failing(_status(code)))


def test_stopping_ends_the_wait_for_a_coordinator_that_is_away() -> None:
    link = _Link(1)
    link.stop.set()
    with pytest.raises(Stopping):
        link.persist(_failing(httpx.ConnectError("x")))


def test_a_key_that_is_accepted_late_joins() -> None:
    link = _Link(_status(412), _status(412), 7, patience=5)
    assert link.join() == 7
    assert link.told == ["h:1 does not accept this site's key yet; waiting", "connected to h:1"]


@pytest.mark.parametrize("code", [401, 412])
def test_a_key_that_stays_refused_is_an_error_that_says_what_to_do(code: int) -> None:
    with pytest.raises(CryptoError, match=r"node key.*provision the site"):
        _Link(_status(code)).join()


def test_a_port_that_is_not_flowers_is_named() -> None:
    with pytest.raises(CryptoError, match="fleet_port"):
        _Link(_status(404)).join()


def _sent(offset: float) -> dict[str, str]:
    return {"date": format_datetime(datetime.now(UTC) + timedelta(seconds=offset), usegmt=True)}


def test_a_refused_signature_names_the_clock_when_the_clock_is_off() -> None:
    with pytest.raises(CryptoError, match=r"the clock here was \+(59|6[01]) s off"):
        _Link(_status(401, _sent(-60))).join()
    # Set right since; the node that it was counts as there for a while yet, and its key as taken.
    with pytest.raises(CryptoError, match=r"the clock here was \+(59|6[01]) s off"):
        _Link(_status(401, _sent(-60)), _status(412), patience=0.5).join()
    with pytest.raises(CryptoError, match="node key"):
        _Link(_status(401, _sent(0))).join()


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}])
def test_a_missing_or_broken_date_gives_no_clock_difference(headers: dict[str, str]) -> None:
    assert clock_difference(httpx.Response(401, headers=headers)) is None


def _certificate_fault() -> httpx.ConnectError:
    error = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed certificate")
    return error


def test_a_foreign_certificate_ends_an_agent_that_starts() -> None:
    with pytest.raises(CryptoError, match="authority did not sign"):
        _Link(_certificate_fault()).join()


def test_a_foreign_certificate_is_an_outage_for_an_agent_that_has_been_at_work() -> None:
    link = _Link(1)
    link.join()
    assert link.persist(_failing(_certificate_fault())) == "done"


def test_goodbye_is_said_unless_nobody_is_there_to_hear_it() -> None:
    link = _Link(1)
    link.leave(3)
    assert link.fleet.left == [3]
    link.stop.set()
    with pytest.raises(Stopping):
        link.persist(_failing(httpx.ConnectError("x")))
    link.leave(4)
    assert link.fleet.left == [3]


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)


def _lost(heart: Heartbeat) -> bool:
    try:
        heart.check()
    except MembershipLost:
        return True
    return False


def test_a_heartbeat_that_gets_through_keeps_the_membership() -> None:
    beats: list[float] = []

    def beat() -> bool:
        beats.append(time.monotonic())
        return True

    with Heartbeat(beat, 0.03) as heart:
        _until(lambda: len(beats) >= 10)
        heart.check()


@pytest.mark.parametrize("answer", [False, _status(401)])
def test_a_node_that_the_coordinator_does_not_know_has_lost_its_membership(
    answer: bool | Exception,
) -> None:
    def beat() -> bool:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with Heartbeat(beat, 0.03) as heart:
        _until(lambda: _lost(heart))
        with pytest.raises(MembershipLost, match="any more"):
            heart.check()


@pytest.mark.parametrize("error", [_status(500), httpx.ReadTimeout("x"), ValueError("junk")])
def test_a_node_that_is_not_heard_for_two_intervals_has_lost_its_membership(
    error: Exception,
) -> None:
    def beat() -> bool:
        raise error

    with Heartbeat(beat, 0.05) as heart:
        heart.check()
        _until(lambda: _lost(heart))
        with pytest.raises(MembershipLost, match="no heartbeat got through"):
            heart.check()

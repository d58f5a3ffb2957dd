import threading
import time
from collections.abc import Callable

import pytest

from fdfed.errors import ConnectionFailed, CryptoError
from fdfed.exchange import ExchangeCode, FrameRefused
from fdfed_client.exchange_connection import LONGEST_PAUSE_SECONDS, ExchangeConnection
from fdfed_client.exchange_link import HubUnavailable


class Link:
    """Stands for an open link."""

    def __init__(self) -> None:
        self.closed = False
        self.is_open = True

    def close(self) -> None:
        self.closed = True


class Hub:
    """Gives links or raises what it is told to; its clock moves when the test says so."""

    def __init__(self, *answers: ConnectionFailed | None) -> None:
        self.answers = list(answers)
        self.attempts = 0
        self.now = 0.0
        self.links: list[Link] = []

    def open(self) -> Link:
        self.attempts += 1
        error = self.answers.pop(0) if self.answers else None
        if error is not None:
            raise error
        self.links.append(Link())
        return self.links[-1]

    def connection(self) -> ExchangeConnection:
        return ExchangeConnection(self.open, clock=lambda: self.now)  # type: ignore[arg-type, return-value]


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "waited five seconds in vain"
        time.sleep(0.002)


def _lost(connection: ExchangeConnection) -> bool:
    with pytest.raises(HubUnavailable):
        connection.link()
    return True


def test_the_first_link_is_opened_at_once_and_kept() -> None:
    hub = Hub()
    connection = hub.connection()
    assert connection.link() is connection.link()
    assert hub.attempts == 1


def test_while_the_hub_is_gone_nothing_is_tried_before_the_pause_is_over() -> None:
    hub = Hub(HubUnavailable("down"))
    connection = hub.connection()
    _lost(connection)
    for _ in range(100):
        _lost(connection)
    assert hub.attempts == 1


def test_after_the_pause_one_attempt_runs_in_the_background() -> None:
    release = threading.Event()
    hub = Hub(HubUnavailable("down"))
    opened = hub.open

    def slow() -> Link:
        link = opened()
        assert release.wait(5)
        return link

    connection = hub.connection()
    _lost(connection)
    connection._open_link = slow  # type: ignore[assignment]
    hub.now = 1.0
    start = time.perf_counter()
    for _ in range(100):
        _lost(connection)
    assert time.perf_counter() - start < 2, "steps do not wait for the attempt"
    _until(lambda: hub.attempts == 2)
    release.set()
    _until(lambda: connection._link is not None)
    assert connection.link() is hub.links[0]  # type: ignore[comparison-overlap]


def test_pauses_grow_up_to_the_longest() -> None:
    hub = Hub(*[HubUnavailable("down")] * 20)
    connection = hub.connection()
    _lost(connection)
    pauses = []
    for attempt in range(2, 14):
        pauses.append(connection._retry_at - hub.now)
        hub.now = connection._retry_at
        _lost(connection)
        _until(lambda n=attempt: hub.attempts == n and not connection._attempting)  # type: ignore[misc]
    assert pauses[0] <= 0.5 * 1.25
    assert all(
        0.75 * LONGEST_PAUSE_SECONDS <= p <= 1.25 * LONGEST_PAUSE_SECONDS for p in pauses[8:]
    )


def test_a_dropped_link_is_closed_and_opened_anew_after_a_pause() -> None:
    hub = Hub()
    connection = hub.connection()
    link = connection.link()
    connection.drop(link, HubUnavailable("cut"))
    assert hub.links[0].closed
    _lost(connection)
    assert hub.attempts == 1
    hub.now = 1.0
    _lost(connection)
    _until(lambda: connection._link is not None)
    assert connection.link() is not link


def test_an_old_stream_that_the_hub_still_holds_is_waited_out() -> None:
    hub = Hub(FrameRefused(ExchangeCode.DUPLICATE_STREAM))
    connection = hub.connection()
    with pytest.raises(FrameRefused):
        connection.link()
    hub.now = 1.0
    _lost(connection)
    _until(lambda: connection._link is not None)


def test_an_identity_that_is_not_accepted_is_an_error_also_from_the_background() -> None:
    hub = Hub(HubUnavailable("down"), CryptoError("not signed"))
    connection = hub.connection()
    _lost(connection)
    hub.now = 1.0
    _lost(connection)
    _until(lambda: connection._refusal is not None)
    with pytest.raises(CryptoError, match="not signed"):
        connection.link()


def test_opening_by_hand_does_not_wait_for_the_pause() -> None:
    hub = Hub(HubUnavailable("down"))
    connection = hub.connection()
    _lost(connection)
    assert connection.open() is connection.link()


def test_a_round_begins_with_attempts_in_the_foreground_until_its_time_is_over() -> None:
    hub = Hub(*[HubUnavailable("down")] * 3)
    connection = hub.connection()
    with pytest.raises(HubUnavailable):
        connection.open_within(0.0)
    assert hub.attempts == 1
    opened = hub.open

    def later() -> Link:
        hub.now += 1.0
        return opened()

    connection._open_link = later  # type: ignore[assignment]
    with pytest.raises(HubUnavailable):
        connection.open_within(1.4)
    assert hub.attempts == 2
    assert connection.open_within(10.0) is hub.links[0]  # type: ignore[comparison-overlap]
    assert hub.attempts == 4


def test_a_link_that_was_lost_between_rounds_is_replaced_before_the_first_step() -> None:
    hub = Hub()
    connection = hub.connection()
    link = connection.link()
    assert connection.open_within(0.0) is link
    hub.links[0].is_open = False
    assert connection.open_within(0.0) is hub.links[1]  # type: ignore[comparison-overlap]
    assert hub.links[0].closed


def test_an_identity_that_is_not_accepted_ends_the_attempts_of_a_round_at_once() -> None:
    hub = Hub(CryptoError("not signed"))
    with pytest.raises(CryptoError, match="not signed"):
        hub.connection().open_within(60.0)
    assert hub.attempts == 1


def test_a_link_that_comes_after_closing_is_closed() -> None:
    hub = Hub()
    connection = hub.connection()
    opened = hub.open

    def closing() -> Link:
        connection.close()
        return opened()

    connection._open_link = closing  # type: ignore[assignment]
    _lost(connection)
    assert hub.links[0].closed
    connection._open_link = opened  # type: ignore[assignment]
    assert connection.link() is hub.links[1]  # type: ignore[comparison-overlap]

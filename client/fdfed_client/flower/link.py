"""A node's membership, kept up: joining, the heartbeat, and trying again.

What heals by waiting (the coordinator is away, restarts, answers 5xx) is waited for here, however
long it takes. What does not is told apart: a key that the coordinator does not know ends the agent,
a membership that was lost is joined again, a request that is refused concerns one message only.
"""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import httpx

from fdfed.errors import CryptoError
from fdfed_client.flower.fleet import Fleet, clock_difference
from fdfed_client.flower.known_node import KnownNode
from fdfed_client.flower.presence import Presence

P = ParamSpec("P")
T = TypeVar("T")

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_BEATS_PER_INTERVAL: Final = 3
_REJOIN_PAUSE: Final = 1.0
_SERVER_ERRORS: Final = 8
"""How often a request about one message may meet an HTTP 5xx: some 15 s. Polling never gives up."""
_CLOCK_TOLERANCE: Final = 5.0
"""Flower takes a signature from at most this far in its future (and 5 minutes in its past)."""


class Stopping(Exception):
    """The agent was told to stop while it waited for the coordinator."""


class MembershipLost(Exception):
    """The SuperLink does not count this node as its own any more; joining again may help."""


class RequestRefused(Exception):
    """The SuperLink will not do this, now or later: the run is over, or the message is gone."""


class Link:
    """One node's connection to its coordinator, over all of its interruptions.

    Args:
        patience: how long, in seconds, a refused key is tried again. A node that was killed counts
            as online until its heartbeat is missed, and is refused as its own double so long.
        tell: gets one line for people each time that something changes.
        presence: is told of every turn, and of how the coordinator answers.
        known: which node this was before; None where it may not go on as that.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        server: str,
        stop: threading.Event,
        heartbeat_seconds: float,
        patience: float,
        tell: Callable[[str], None],
        presence: Presence | None = None,
        known: KnownNode | None = None,
    ) -> None:
        self._known = known
        self._presence = presence or Presence()
        self._fleet = fleet
        self._server = server
        self._stop = stop
        self._interval = heartbeat_seconds
        self._patience = patience
        self._tell = tell
        self._ever_joined = False
        self._away = False
        self._lock = threading.Lock()

    @property
    def is_away(self) -> bool:
        """Whether the coordinator did not answer the last request."""
        return self._away

    def join(self) -> int:
        """Reports for duty until it is accepted; the node id.

        Raises:
            CryptoError: if the coordinator refuses the key for longer than `patience`, or is not
                the one that the consortium's certificate vouches for.
            Stopping: if told to stop.
        """
        refused_since: float | None = None
        clock_off = 0.0
        while True:
            try:
                node_id = self._go_on() or self.persist(self._fleet.activate)
            except (MembershipLost, RequestRefused) as err:
                now = time.monotonic()
                # A clock that has been set right since still explains why it was refused.
                clock_off = _clock_off(err) or clock_off
                if refused_since is None:
                    refused_since = now
                    self._tell(f"{self._server} does not accept this site's key yet; waiting")
                if now - refused_since >= self._patience:
                    raise CryptoError(self._refusal(err, clock_off)) from err
                if self._stop.wait(_REJOIN_PAUSE):
                    raise Stopping from err
            else:
                self._ever_joined = True
                if self._known is not None:
                    self._known.keep(node_id)
                self._presence.joined(self._interval)
                self._tell(f"connected to {self._server}")
                return node_id

    def _go_on(self) -> int | None:
        """The node that this was before it was killed, if the coordinator still knows it."""
        node_id = None if self._known is None else self._known.load()
        if node_id is None or self._ever_joined:
            return None
        try:
            return node_id if self.persist(self._fleet.beat, node_id) else None
        except (MembershipLost, RequestRefused):
            return None

    def persist(
        self,
        call: Callable[P, T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """`call(...)`, tried again while the coordinator is away; for polling and joining."""
        return self._try(call, None, *args, **kwargs)

    def attempt(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `persist`, but gives up on an HTTP 5xx that does not go away: for one message."""
        return self._try(call, _SERVER_ERRORS, *args, **kwargs)

    def _try(
        self, call: Callable[P, T], errors: int | None, /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        pause = _FIRST_PAUSE
        while True:
            self._presence.loop.beat()
            try:
                result = call(*args, **kwargs)
            except httpx.HTTPStatusError as err:
                _raise_if_final(err)
                errors = None if errors is None else errors - 1
                if errors == 0:
                    raise RequestRefused(f"HTTP {err.response.status_code}") from err
                self._note_away(f"answers HTTP {err.response.status_code}")
            except httpx.TransportError as err:
                self._raise_if_untrusted(err)
                self._note_away(f"cannot be reached ({type(err).__name__})")
            except (ValueError, IndexError):
                # What Flower's decoder raises on an answer that is no protobuf of its kind.
                self._note_away("answers something that is not Flower's")
            else:
                self._note_back()
                return result
            # Spread out, so that sites do not all come at once when the coordinator is back.
            if self._stop.wait(pause * random.uniform(0.5, 1.0)):  # noqa: S311  (not a secret)
                raise Stopping
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _note_away(self, how: str) -> None:
        self._presence.note_away(how)
        with self._lock:
            news, self._away = not self._away, True
        if news:
            self._tell(f"{self._server} {how}; trying again until it answers")

    def _note_back(self) -> None:
        self._presence.note_back()
        with self._lock:
            news, self._away = self._away, False
        if news:
            self._tell(f"{self._server} answers again")

    def _raise_if_untrusted(self, err: httpx.TransportError) -> None:
        # An agent that has been at work rides out a wrong certificate, as it does any other outage
        # of its coordinator; for one that starts, it is a wrong set-up that no waiting heals.
        if not self._ever_joined and _is_certificate_fault(err):
            raise CryptoError(
                f"{self._server} shows a certificate that the consortium's authority did not sign, "
                "or that is not for this name. Check server and ca in site.toml; if a proxy here "
                "opens TLS, it must let this connection pass untouched"
            ) from err

    def _refusal(self, err: Exception, clock_off: float) -> str:
        if clock_off:
            return (
                f"{self._server} did not accept this site's signature: the clock here was "
                f"{clock_off:+.0f} s off the coordinator's; synchronise it (NTP) and start again"
            )
        cause = err.__cause__
        if isinstance(cause, httpx.HTTPStatusError):
            status = cause.response.status_code
            if status not in (401, 412):
                return (
                    f"{self._server} answers HTTP {status} to a Flower request, so it is not the "
                    "coordinator's Flower port; check server and fleet_port in site.toml"
                )
        return (
            f"{self._server} does not accept this site's node key. Either the key is not in the "
            "coordinator's roster (provision the site, or give the coordinator its new roster), "
            "or another agent is running with the same key"
        )

    def heartbeat(self, node_id: int) -> Heartbeat:
        """The node's sign of life, to be used as a context manager."""
        return Heartbeat(
            lambda: self._fleet.beat(node_id), self._interval, on_heard=self._presence.heard
        )

    def leave(self, node_id: int) -> None:
        """Says goodbye, if the coordinator is there to hear it."""
        self._presence.left()
        if self._away:
            return
        try:
            self._fleet.deactivate(node_id)
        except (httpx.HTTPError, ValueError):
            return


class Heartbeat:
    """Beats in a thread of its own, also while a message is being worked on.

    A node can be alive and answered, and yet be counted as gone: `check` is how it finds out. A
    beat that arrives makes the SuperLink count the node as online, whatever it thought before; only
    a node that was removed, or whose beats do not get through, has to join again.

    Args:
        on_heard: called, in the thread, after each beat that was answered.
    """

    def __init__(
        self,
        beat: Callable[[], bool],
        interval: float,
        *,
        on_heard: Callable[[], None] = lambda: None,
    ) -> None:
        self._beat = beat
        self._on_heard = on_heard
        self._interval = interval
        self._done = threading.Event()
        self._lost = ""
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="flower-heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def check(self) -> None:
        """Nothing, while the SuperLink hears this node.

        Raises:
            MembershipLost: if it does not know the node, or has heard no beat for two intervals.
        """
        if self._lost:
            raise MembershipLost(self._lost)
        silent = time.monotonic() - self._last
        if silent > 2 * self._interval:
            raise MembershipLost(f"no heartbeat got through for {silent:.0f} s")

    def _run(self) -> None:
        while not self._done.wait(self._interval / _BEATS_PER_INTERVAL):
            try:
                if not self._beat():
                    self._lost = "the coordinator does not know this node any more"
                    return
            except httpx.HTTPStatusError as err:
                if err.response.status_code == 401:
                    self._lost = "the coordinator does not accept this site's key any more"
                    return
            except (httpx.TransportError, ValueError):
                continue
            else:
                self._last = time.monotonic()
                self._on_heard()


def _clock_off(err: Exception) -> float:
    """Seconds by which the clock here is ahead, where that is why a signature was refused; else
    0."""
    cause = err.__cause__
    if not isinstance(cause, httpx.HTTPStatusError) or cause.response.status_code != 401:
        return 0.0
    ahead = clock_difference(cause.response)
    return 0.0 if ahead is None or abs(ahead) <= _CLOCK_TOLERANCE else ahead


def _raise_if_final(err: httpx.HTTPStatusError) -> None:
    status = err.response.status_code
    if status == 401:
        raise MembershipLost(f"HTTP {status}") from err
    if status < 500:
        raise RequestRefused(f"HTTP {status}") from err


def _is_certificate_fault(err: BaseException) -> bool:
    cause: BaseException | None = err
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False

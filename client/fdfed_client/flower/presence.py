"""How a node stands with its coordinator: written by its threads, read by whoever asks after it."""

from __future__ import annotations

import time
from collections.abc import Callable

from fdfed.process.health import Pulse


class Presence:
    """Whether this node's loop goes round, and whether the coordinator hears the node.

    Only a heartbeat that the coordinator answered counts as being heard. That the node could join
    does not: one whose heartbeats do not get through joins again and again.

    Args:
        clock: seconds; for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.loop = Pulse(clock)
        """Beats with every request, and with every step of a training."""
        self._clock = clock
        self._interval = 0.0
        self._joined = False
        self._heard: float | None = None
        self._away = ""

    def joined(self, heartbeat_seconds: float) -> None:
        """The coordinator has taken the node; it is heard from its first heartbeat on."""
        self._interval, self._heard, self._joined = heartbeat_seconds, None, True

    def left(self) -> None:
        """The membership has ended, whatever ended it."""
        self._joined = False

    def heard(self) -> None:
        """The coordinator has answered a heartbeat."""
        self._heard = self._clock()

    def note_away(self, how: str) -> None:
        """A request failed; it is tried again."""
        self._away = how

    def note_back(self) -> None:
        """A request was answered."""
        self._away = ""

    def check(self) -> str:
        """For readiness: why the coordinator cannot count on this node, if it cannot."""
        if self._away:
            return f"the coordinator {self._away}"
        if not self._joined:
            return "not registered with the coordinator"
        if self._heard is None:
            return "registered, but no heartbeat has got through yet"
        silent = self._clock() - self._heard
        # Three beats are made in an interval, and after two intervals the node counts as gone.
        if silent > self._interval:
            return f"no heartbeat got through for {silent:.0f} s"
        return ""

"""An agent that is told to stop while it works: what is nearly done is finished, the rest is given
up in order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from fdfed.errors import EXIT_INTERRUPTED, FdfedError

log = logging.getLogger(__name__)


class AgentStopped(FdfedError):
    """The agent was told to stop before the message was answered. Nothing of it was kept: the
    round is trained anew when the agent is back."""

    exit_code = EXIT_INTERRUPTED


class Drain:
    """Lets the work under way go on for a while after `stop` was set, and then ends it.

    Args:
        seconds: how long. Less than a service manager waits before it kills.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        stop: threading.Event,
        *,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stop = stop
        self._seconds = seconds
        self._clock = clock
        self._until: float | None = None

    def check(self) -> None:
        """Returns while the work may go on; called after each step of it.

        Raises:
            AgentStopped: once the time is over.
        """
        if not self._stop.is_set():
            return
        if self._until is None:
            self._until = self._clock() + self._seconds
            log.info("told to stop: the work under way has %.0f s to end", self._seconds)
        if self._clock() >= self._until:
            raise AgentStopped(
                "the agent was told to stop, and the work under way did not end within "
                f"drain_seconds = {self._seconds:g}; the coordinator is told, and asks for the "
                "round again when the agent is back"
            )

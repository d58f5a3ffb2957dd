"""Pausing, resuming and stopping a run from another thread, between its rounds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from fdfed.process.health import Pulse

_LOOK_SECONDS: Final = 0.2


class RunControl:
    """What an operator asks of the round loop. A round under way is always finished or given up
    by its own rules; nothing here cuts it.

    Args:
        stop: ends the process as an interrupt does, with the state kept.
        pulse: beats while the run is paused.
    """

    def __init__(self, stop: Callable[[], None], *, pulse: Pulse | None = None) -> None:
        self._go = threading.Event()
        self._go.set()
        self._stop = stop
        self._pulse = pulse or Pulse()

    @property
    def paused(self) -> bool:
        """Whether no further round is to begin."""
        return not self._go.is_set()

    def pause(self) -> None:
        """No further round begins until `resume`."""
        self._go.clear()

    def resume(self) -> None:
        """Rounds go on."""
        self._go.set()

    def stop(self) -> None:
        """Ends the run in order; started again, it goes on after its last complete round."""
        self._stop()

    def await_permission(self) -> None:
        """Returns once the run is not paused; an interrupt gets through meanwhile."""
        while not self._go.wait(_LOOK_SECONDS):
            self._pulse.beat()

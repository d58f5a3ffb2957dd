"""One thread that calls a function when the earliest deadline has passed, and else sleeps."""

from __future__ import annotations

import threading
from collections.abc import Callable


class DeadlineWatcher:
    """Calls `expire` once a watched deadline has passed; `expire` returns the next one, or `None`.

    A deadline that is met does not wake the thread: it wakes at most once per deadline, finds
    nothing to do and sleeps until the next, so that quick steps cost no thread switch. The thread
    starts with the first deadline.
    """

    def __init__(self, expire: Callable[[], float | None], clock: Callable[[], float]) -> None:
        self._expire = expire
        self._clock = clock
        self._changed = threading.Condition()
        self._next: float | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def watch(self, deadline: float) -> None:
        """Sees to it that `expire` is called at `deadline` or earlier."""
        with self._changed:
            if self._stopped or (self._next is not None and self._next <= deadline):
                return
            self._next = deadline
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="exchange-deadlines", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        """Ends the thread; `watch` does nothing from now on."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while self._sleep_until_due():
            following = self._expire()
            if following is not None:
                self.watch(following)

    def _sleep_until_due(self) -> bool:
        with self._changed:
            while not self._stopped:
                delay = None if self._next is None else self._next - self._clock()
                if delay is not None and delay <= 0:
                    # Forgotten before `expire` runs: a deadline set meanwhile is then not lost.
                    self._next = None
                    return True
                self._changed.wait(delay)
        return False

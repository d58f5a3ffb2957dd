"""Ctrl-C and SIGTERM end the coordinator in order, with its state kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from fdfed.process.health import Pulse

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible(pulse: Pulse) -> Iterator[None]:
    """For the time of the context, both signals raise `KeyboardInterrupt` and stop `pulse`.

    The exception alone is not enough. A handler runs wherever the main thread happens to be, and
    Python drops what is raised inside a finaliser or a callback of a library written in C: the run
    would go on as if nobody had asked. The loop then ends at its next beat.

    Outside the main thread, where Python takes no handlers, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_: int, __: FrameType | None) -> None:
        pulse.stop()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

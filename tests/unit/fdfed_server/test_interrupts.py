"""The coordinator ends when it is told to, wherever its main thread happens to be."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from fdfed.process.health import Pulse
from fdfed_server.interrupts import interruptible


class Finalised:
    """The signal comes while this is finalised, where Python drops what a handler raises."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self._number)


SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_at_once(number: signal.Signals) -> None:
    with interruptible(Pulse()), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_whose_exception_is_lost_ends_the_loop_at_its_next_turn(
    number: signal.Signals,
) -> None:
    pulse = Pulse()
    with interruptible(pulse):
        pulse.beat()
        Finalised(number)
        with pytest.raises(KeyboardInterrupt):
            pulse.beat()


def test_the_handlers_of_before_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible(Pulse()):
        assert signal.getsignal(signal.SIGTERM) not in before
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_another_thread_than_the_main_one_takes_no_signals() -> None:
    seen: list[object] = []

    def run() -> None:
        with interruptible(Pulse()):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]

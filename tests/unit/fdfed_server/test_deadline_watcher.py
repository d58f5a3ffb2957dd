import threading
import time

from fdfed_server.deadlines import DeadlineWatcher


def test_the_function_is_called_after_the_deadline_and_again_at_the_one_it_returns() -> None:
    calls: list[float] = []
    twice = threading.Event()

    def expire() -> float | None:
        calls.append(time.monotonic())
        if len(calls) == 2:
            twice.set()
            return None
        return time.monotonic() + 0.02

    watcher = DeadlineWatcher(expire, time.monotonic)
    due = time.monotonic() + 0.02
    watcher.watch(due)
    assert twice.wait(5)
    watcher.stop()
    assert calls[0] >= due
    assert calls[1] >= calls[0] + 0.02


def test_an_earlier_deadline_comes_first() -> None:
    called = threading.Event()

    def expire() -> None:
        called.set()

    watcher = DeadlineWatcher(expire, time.monotonic)
    watcher.watch(time.monotonic() + 60)
    watcher.watch(time.monotonic() + 0.01)
    assert called.wait(5)
    watcher.stop()


def test_a_deadline_set_while_the_function_runs_is_not_lost() -> None:
    again = threading.Event()
    calls = 0

    def expire() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            watcher.watch(time.monotonic() + 0.01)
        else:
            again.set()

    watcher = DeadlineWatcher(expire, time.monotonic)
    watcher.watch(time.monotonic())
    assert again.wait(5)
    watcher.stop()


def test_a_stopped_watcher_starts_no_thread() -> None:
    watcher = DeadlineWatcher(lambda: None, time.monotonic)
    watcher.stop()
    watcher.watch(time.monotonic())
    assert "exchange-deadlines" not in {thread.name for thread in threading.enumerate()}

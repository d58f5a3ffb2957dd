"""Pausing and stopping a run between its rounds."""

from __future__ import annotations

import threading

from fdfed_server.run_control import RunControl


def test_a_paused_run_waits_until_it_is_resumed() -> None:
    control = RunControl(lambda: None)
    control.await_permission()
    control.pause()
    assert control.paused
    passed = threading.Event()

    def wait() -> None:
        control.await_permission()
        passed.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert not passed.wait(0.3)
    control.resume()
    assert passed.wait(10)
    thread.join()
    assert not control.paused


def test_stop_is_handed_on() -> None:
    asked: list[bool] = []
    RunControl(lambda: asked.append(True)).stop()
    assert asked == [True]

"""systemd hears of a process that works, and nothing of one that stands still."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdfed.process.health import Health
from fdfed.process.watchdog import watchdog


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket on which systemd would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def environment(listener: socket.socket, **changes: str) -> dict[str, str]:
    told = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "40000"}
    return told | {"WATCHDOG_PID": str(os.getpid())} | changes


def is_silent(listener: socket.socket) -> bool:
    listener.settimeout(0.2)
    try:
        listener.recv(100)
    except TimeoutError:
        return True
    finally:
        listener.settimeout(5)
    return False


def test_a_process_that_works_says_so_again_and_again_and_stops_with_its_work(
    systemd: socket.socket,
) -> None:
    with watchdog(Health(live={"loop": lambda: ""}), environment(systemd)):
        assert [systemd.recv(100) for _ in range(3)] == 3 * [b"WATCHDOG=1"]
    while not is_silent(systemd):
        pass


def test_a_process_whose_loop_stands_still_falls_silent(systemd: socket.socket) -> None:
    trouble = [""]
    with watchdog(Health(live={"loop": lambda: trouble[0]}), environment(systemd)):
        systemd.recv(100)
        trouble[0] = "has not gone round for 901 s"
        while not is_silent(systemd):
            pass
        trouble[0] = ""
        assert systemd.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"NOTIFY_SOCKET": ""}, id="no systemd"),
        pytest.param({"WATCHDOG_USEC": ""}, id="no watchdog"),
        pytest.param({"WATCHDOG_PID": "1"}, id="another process is meant"),
    ],
)
def test_where_nobody_asked_nothing_is_said(
    systemd: socket.socket, changes: dict[str, str]
) -> None:
    with watchdog(Health(), environment(systemd, **changes)):
        assert is_silent(systemd)


def test_a_systemd_that_has_gone_does_not_stop_the_work(
    systemd: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    gone = environment(systemd, NOTIFY_SOCKET="/nowhere/notify")
    with watchdog(Health(live={"loop": lambda: ""}), gone):
        pass
    assert "cannot be told" in caplog.text

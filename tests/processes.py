"""Parties of a federation as operating-system processes: free ports, a start, an end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def start_process(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """`main` of the module that the command begins with, on one thread; its output goes on in
    `log`."""
    with log.open("ab") as opened:
        return subprocess.Popen(
            [sys.executable, "-c", f"import {command[0]} as c; c.main()", *command[1:]],
            stdout=opened,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def end_processes(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Asks them all to end, and makes those that do not."""
    started = list(processes)
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in started:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

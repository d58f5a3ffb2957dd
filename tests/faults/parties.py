"""Processes of coordinators and agents that begin with everything imported.

A drill starts and kills them by the dozen, and imports take most of a start. They are forked from
a process that has done nothing but import; what runs in them is the command that a person types.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import subprocess
import sys
from pathlib import Path

_CONTEXT = mp.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "fdfed_server.cli",
        "fdfed_server.coordinator",
        "fdfed_server.event_log",
        "fdfed_server.progress",
        "fdfed_server.tensorboard",
        "fdfed_client.cli",
        "fdfed_client.agent",
        "fdfed_client.progress",
        "fdfed.evaluation.report",
        "tests.faults.parties",
    ]
)


def _run(package: str, arguments: list[str], log: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.argv = ["fdfed", *arguments]
    if package == "fdfed_server":
        from fdfed_server.cli import main
    else:
        from fdfed_client.cli import main
    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


class Party:
    """A process, with the few calls of `subprocess.Popen` that a federation makes."""

    def __init__(self, package: str, arguments: list[str], log: Path) -> None:
        self._process = _CONTEXT.Process(target=_run, args=(package, arguments, str(log)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        self._process.join(0)
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("party", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

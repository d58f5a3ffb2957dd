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
import tempfile
from pathlib import Path

_CONTEXT = mp.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "fdfed_server.cli",
        "fdfed_server.coordinator",
        "fdfed_server.federation",
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


def have_clocks() -> None:
    """Every party that is started from now on can have a wall clock of its own; to be called before
    the first. Needs a C compiler (`cc`)."""
    folder = Path(tempfile.mkdtemp(prefix="fdfed-clock-"))
    source, library = Path(__file__).with_name("clock.c"), folder / "clock.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-lm", "-ldl"]
    subprocess.run(command, check=True)
    os.environ["LD_PRELOAD"] = str(library)
    # The process that all parties are forked from starts here; this one keeps its own clock.
    _CONTEXT.Process(target=int).start()
    del os.environ["LD_PRELOAD"]


def _run(package: str, arguments: list[str], log: str, clock: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    os.environ["OMP_NUM_THREADS"] = "1"
    if clock:
        os.environ["FDFED_CLOCK"] = clock
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

    def __init__(
        self, package: str, arguments: list[str], log: Path, *, clock: Path | None = None
    ) -> None:
        """
        Args:
            clock: file with the seconds by which its wall clock is off; needs `have_clocks`.
        """
        run = (package, arguments, str(log), "" if clock is None else str(clock))
        self._process = _CONTEXT.Process(target=_run, args=run)
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

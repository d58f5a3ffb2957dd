"""A federation with a proxy before each port of each site, and parties that are started again when
they end, as a service manager does."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from fdfed_server.config import FederationConfig
from tests.deployment import Deployment, deployed
from tests.faults.parties import Party
from tests.faults.proxy import Proxy

_RESTARTS: int = 24
_LONGEST_PAUSE: float = 15.0
_DISK_MIB: int = 48


class DrillFailed(AssertionError):
    """A run did not come to what it must come to."""


@dataclass
class Drilled(Deployment):
    """Use `drilled` to make one."""

    sites: tuple[str, ...] = ()
    proxies: dict[tuple[str, str], Proxy] = field(default_factory=dict)
    """By site, and `fleet` or `exchange`."""
    starts: Counter[str] = field(default_factory=Counter)
    held: set[str] = field(default_factory=set)
    """Parties that are not started again for now."""
    disks: tuple[Path, ...] = ()
    """State folders that are small file systems of their own, in memory."""
    clocks: bool = False
    """Whether each party has a wall clock of its own."""
    completions: list[float] = field(default_factory=list)
    """When each round was seen to be complete, of `time.monotonic`."""

    def start(self, name: str) -> None:
        package, *arguments = self.command(name)
        log = self.folder / f"{name}.log"
        clock = self.clock(name) if self.clocks else None
        party = Party(package, arguments, log, clock=clock)
        self.processes[name] = party  # type: ignore[assignment]
        self.starts[name] += 1

    def begin(self) -> None:
        """A new run: an empty coordinator, and agents that may have served another before."""
        shutil.rmtree(self.state, ignore_errors=True)
        (self.folder / "server.log").write_text("")
        self.starts.clear()
        self.completions.clear()
        self.start("server")
        for site in self.sites:
            if not self.runs(site):
                self.start(site)

    def runs(self, name: str) -> bool:
        process = self.processes.get(name)
        return process is not None and process.poll() is None

    def await_run(self, seconds: float) -> None:
        """Returns when the coordinator has ended well; whoever else ends is started again."""
        end = time.monotonic() + seconds
        while True:
            if self.turn():
                return
            if time.monotonic() > end:
                raise DrillFailed(f"the run was not complete within {seconds:.0f} s")
            time.sleep(0.05)

    def turn(self) -> bool:
        """One look at all parties; whether the run is complete."""
        new = self.log("server").count("is complete: ") - len(self.completions)
        self.completions += [time.monotonic()] * new
        for name in ("server", *self.sites):
            if self.runs(name) or name in self.held or name not in self.processes:
                continue
            if name == "server" and self.processes[name].returncode == 0:
                return True
            if self.starts[name] > _RESTARTS:
                raise DrillFailed(f"{name} ended again and again")
            self.start(name)
        return False

    def await_round(self, number: int, seconds: float = 120) -> None:
        """Waits until the round begins, or one after it."""
        end = time.monotonic() + seconds
        while not any(f"round {n} begins" in self.log("server") for n in range(number, 1000)[:20]):
            if self.turn() or time.monotonic() > end:
                return
            time.sleep(0.05)

    def next_completion(self, moment: float) -> float:
        """When the first round after this moment was complete; the moment itself if none was."""
        return next((when for when in self.completions if when > moment), moment)

    def round_seconds(self) -> float:
        """What the last round took, within bounds; a second if there was none."""
        if len(self.completions) < 2:
            return 1.0
        return min(max(self.completions[-1] - self.completions[-2], 0.1), _LONGEST_PAUSE)

    def pid(self, name: str) -> int | None:
        """Process id of a party, or of the coordinator's `superlink`."""
        if name != "superlink":
            return self.processes[name].pid if self.runs(name) else None
        with suppress(OSError):
            parent = self.processes["server"].pid
            for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
                return int(child)
            for task in Path(f"/proc/{parent}/task").iterdir():
                for child in (task / "children").read_text().split():
                    return int(child)
        return None

    def kill(self, name: str) -> None:
        """SIGKILL, as when the machine's memory is out; nothing if it does not run."""
        pid = self.pid(name)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if name != "superlink":
                self.processes[name].wait()

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """The process stands still meanwhile."""
        pid = self.pid(name)
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                if pid is not None:
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def full_disk(self, name: str) -> Iterator[None]:
        """Meanwhile no file of the process can grow: every write to its state fails."""
        pid = self.pid(name)
        infinity = resource.RLIM_INFINITY
        with suppress(ProcessLookupError):
            if pid is not None:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, infinity))
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                if pid is not None:
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (infinity, infinity))

    def state_of(self, name: str) -> Path:
        """The state folder of a party; the SuperLink's is the coordinator's."""
        return self.folder / "sites" / name / "state" if name in self.sites else self.state

    @contextmanager
    def full_file_system(self, name: str) -> Iterator[None]:
        """Meanwhile the file system of the party's state has no byte left; needs `disks`."""
        filler = self.state_of(name) / "filler"
        try:
            with suppress(OSError), filler.open("wb") as file:
                block = bytes(2**16)
                while True:
                    file.write(block)
                    file.flush()
            yield
        finally:
            filler.unlink(missing_ok=True)

    @contextmanager
    def read_only(self, name: str) -> Iterator[None]:
        """Meanwhile nothing can be made, replaced or removed in the party's state; files that it
        has open can still be written. Needs `disks`."""
        state = str(self.state_of(name))
        _run("mount", "--bind", state, state)
        try:
            _run("mount", "-o", "remount,bind,ro", state)
            yield
        finally:
            _run("umount", "--lazy", state)

    @contextmanager
    def clock_off(self, name: str, seconds: float) -> Iterator[None]:
        """Meanwhile the wall clock of the party's machine is off by so much. Needs `clocks`."""
        file = self.clock(name)
        file.write_text(f"{seconds:+.3f}")
        try:
            yield
        finally:
            file.write_text("+0")

    def clock(self, name: str) -> Path:
        """The file that says by how much the party's clock is off."""
        return self.folder / f"{name}.clock"

    def heal(self) -> None:
        for proxy in self.proxies.values():
            proxy.heal()

    def stop(self) -> None:
        super().stop()
        for proxy in self.proxies.values():
            proxy.close()
        for disk in self.disks:
            _run("umount", "--lazy", str(disk))


def drilled(
    folder: Path,
    sites: Sequence[str],
    plan: Mapping[str, object],
    *,
    disks: bool = False,
    clocks: bool = False,
) -> Drilled:
    """A federation on phantoms, provisioned, its sites behind proxies.

    Args:
        disks: each state folder is a file system of its own; needs the right to mount.
        clocks: each party has a wall clock of its own; needs `have_clocks`.
    """
    plain = deployed(folder, sites, plan, data=None)
    tables = tomllib.loads(plain.config.read_text())
    tables["server"] |= {"metrics_port": 0, "console_port": 0}
    plain.config.write_text(tomli_w.dumps(tables))
    server = FederationConfig.load(plain.config).server
    found = Drilled(folder, None, sites=tuple(sites), clocks=clocks)
    for site in sites:
        path = folder / "sites" / site / "site.toml"
        settings = tomllib.loads(path.read_text()) | {"metrics_port": 0, "console_port": 0}
        for port, target in (("fleet", server.fleet_port), ("exchange", server.exchange_port)):
            proxy = found.proxies[site, port] = Proxy(target)
            settings[f"{port}_port"] = proxy.port
        path.write_text(tomli_w.dumps(settings))
    for name in ("server", *sites):
        found.clock(name).write_text("+0")
        if disks:
            state = found.state_of(name)
            state.mkdir(mode=0o700, exist_ok=True)
            _run("mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m,mode=0700", "none", str(state))
            found.disks += (state,)
    return found


def may_mount() -> bool:
    """Whether this process may mount file systems."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "none", folder], capture_output=True, check=False
        )
        if done.returncode == 0:
            _run("umount", folder)
    return done.returncode == 0


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)

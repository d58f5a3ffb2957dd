"""A federation with a proxy before each port of each site, and parties that are started again when
they end, as a service manager does."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import tomli_w

from fdfed_server.config import FederationConfig
from tests.deployment import Deployment, deployed
from tests.faults.parties import Party
from tests.faults.proxy import Proxy

_RESTARTS: int = 8
_EVENT = re.compile(r"^(\S+ \S+) INFO +round (\d+) (begins|is complete)", flags=re.MULTILINE)


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

    def start(self, name: str) -> None:
        package, *arguments = self.command(name)
        log = self.folder / f"{name}.log"
        self.processes[name] = Party(package, arguments, log)  # type: ignore[assignment]
        self.starts[name] += 1

    def begin(self) -> None:
        """A new run: an empty coordinator, and agents that may have served another before."""
        shutil.rmtree(self.state, ignore_errors=True)
        (self.folder / "server.log").write_text("")
        self.starts.clear()
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
            time.sleep(0.01)

    def round_seconds(self) -> float:
        """What the last complete round took; a second if there is none."""
        times = {}
        for when, number, what in _EVENT.findall(self.log("server")):
            times[int(number), what] = datetime.strptime(when, "%Y-%m-%d %H:%M:%S,%f")
        spans = [
            (ended - times[number, "begins"]).total_seconds()
            for (number, what), ended in times.items()
            if what == "is complete" and (number, "begins") in times
        ]
        return min(max(spans[-1], 0.1), 30.0) if spans else 1.0

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

    def heal(self) -> None:
        for proxy in self.proxies.values():
            proxy.heal()

    def stop(self) -> None:
        super().stop()
        for proxy in self.proxies.values():
            proxy.close()


def drilled(folder: Path, sites: Sequence[str], plan: Mapping[str, object]) -> Drilled:
    """A federation on phantoms, provisioned, its sites behind proxies."""
    plain = deployed(folder, sites, plan, data=None)
    tables = tomllib.loads(plain.config.read_text())
    tables["server"] |= {"metrics_port": 0, "console_port": 0}
    plain.config.write_text(tomli_w.dumps(tables))
    server = FederationConfig.load(plain.config).server
    found = Drilled(folder, None, sites=tuple(sites))
    for site in sites:
        path = folder / "sites" / site / "site.toml"
        settings = tomllib.loads(path.read_text()) | {"metrics_port": 0, "console_port": 0}
        for port, target in (("fleet", server.fleet_port), ("exchange", server.exchange_port)):
            proxy = found.proxies[site, port] = Proxy(target)
            settings[f"{port}_port"] = proxy.port
        path.write_text(tomli_w.dumps(settings))
    return found

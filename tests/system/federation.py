"""What the system tests stand on: processes of a run, programs of the system, and patience."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.processes import end_processes, start_process

DEPLOY = Path(__file__).parents[2] / "deploy"
SITES = ("tnbc", "monuseg", "busbra")
RUN = {
    "sites": list(SITES),
    "width": 8,
    "size": 32,
    "rounds": 21,  # 12 of phase 1, 9 of phase 2
    "warm_start": True,
    "steps_per_round": 10,  # with width and rate, enough for curves that show training
    "learning_rate": 0.01,
    "batch_size": 4,
    "phantoms": True,
}


def tool(name: str) -> str:
    """The path of a program that `make test-system` installs; never a reason to skip."""
    found = shutil.which(name)
    assert found, f"{name} is not installed; run `make test-system`, which installs it"
    return found


def get(url: str) -> str:
    assert url.startswith("http://127.0.0.1:")
    return httpx.get(url, timeout=10).raise_for_status().text


def eventually(what: Callable[[], Any], *, seconds: float = 120) -> Any:
    """What `what` gives once it is true; errors count as not yet."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            found = what()
        except (OSError, AssertionError, httpx.HTTPError) as err:
            found, last = None, err
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s; the last finding: {last!r}")


@dataclass
class Federation:
    """The processes of a run, and where they are watched."""

    folder: Path
    metrics_port: int
    console_port: int
    agent_metrics_port: int
    """Of the first site's agent; the others serve none."""
    agent_console_port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def console(self) -> str:
        return f"http://127.0.0.1:{self.console_port}"

    @property
    def state(self) -> Path:
        return self.folder / "server" / "state"

    def token(self, role: str) -> str:
        return (self.state / "console" / f"{role}.token").read_text().strip()

    def pause_in_phase_2(self) -> None:
        """Has an operator pause the run after the first round that exchanged something."""
        eventually(lambda: "console: http" in self.log("server"), seconds=280)
        with httpx.Client(base_url=self.console, headers={"x-fdfed-console": "1"}) as browser:
            login = browser.post("/login", data={"token": self.token("operator")})
            assert login.status_code == 303, login.text
            eventually(lambda: self.status()["completed_rounds"] >= 13, seconds=280)
            browser.post("/api/pause").raise_for_status()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state / "status.json").read_text())
        return found

    def start(self, name: str, *command: str) -> None:
        self.processes[name] = start_process(command, self.folder / f"{name}.log")

    def stop(self) -> None:
        end_processes(self.processes.values())


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus, and its answers."""

    address: str

    def ask(self, path: str, **query: str) -> Any:
        document = json.loads(get(f"{self.address}{path}?{urllib.parse.urlencode(query)}"))
        assert document["status"] == "success", document
        return document["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("/api/v1/query", query=expression)["result"]
        return found

"""A SuperLink that dies: again and again, at once, or while it fills the disk with its log."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdfed.errors import ConnectionFailed
from fdfed_server.config import FederationConfig, ServerConfig
from fdfed_server.flower.superlink import SuperLink
from fdfed_server.provision import provision
from tests.processes import free_ports


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    fleet, exchange, control = free_ports(3)
    ports = {"fleet_port": fleet, "exchange_port": exchange, "control_port": control}
    provision(["tnbc"], tmp_path, days=1, **ports)
    loaded = FederationConfig.load(tmp_path / "server" / "federation.toml").server
    return loaded.model_copy(update={"bind": "127.0.0.1"})


class Pauses(threading.Event):
    """Notes how long it is waited for, and is set after as many pauses as asked for."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._count = count

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        if len(self.seconds) == self._count:
            self.set()
        return self.is_set()


def test_a_child_that_dies_again_and_again_is_started_after_ever_longer_pauses(
    config: ServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = SuperLink(config)
    link._answered, link._stopping = True, Pauses(8)
    monkeypatch.setattr(link, "_live", lambda: "ended with status 1")
    link._supervise()
    assert link._stopping.seconds == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])
    assert link.restarts == 8


def test_a_child_that_never_comes_up_ends_the_coordinator_with_its_last_words(
    config: ServerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process: an interpreter that only says why it cannot work."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'database is malformed' >&2\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(broken))
    link = SuperLink(config)
    with pytest.raises(ConnectionFailed, match=r"ended 3 times.*database is malformed"):
        link.start()
    assert link.pid is None
    assert link.restarts == 3


@pytest.fixture
def root_handlers() -> Iterator[None]:
    root = logging.getLogger()
    before = list(root.handlers)
    flower = {name: logging.getLogger(name) for name in ("flwr", "uvicorn", "uvicorn.error")}
    kept = {name: (list(log.handlers), log.propagate, log.level) for name, log in flower.items()}
    yield
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
        handler.close()
    for name, (handlers, propagate, level) in kept.items():
        flower[name].handlers, flower[name].propagate = handlers, propagate
        flower[name].setLevel(level)


@pytest.mark.usefixtures("root_handlers")
def test_the_superlinks_log_is_rotated_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fdfed_server.flower import __main__ as process

    monkeypatch.setattr(process, "_LOG_BYTES", 2000)
    process._log_to(tmp_path / "superlink.log")
    for number in range(400):
        logging.getLogger("flwr").info("message %d of a long life", number)
    written = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(written) == {"superlink.log", *(f"superlink.log.{n}" for n in range(1, 6))}
    assert max(written.values()) <= 2000
    assert "message 399" in (tmp_path / "superlink.log").read_text()

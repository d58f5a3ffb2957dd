"""Health: what is asked, and that the answer is the truth."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fdfed.process.health import SILENT_SECONDS, Health, Pulse, not_expired, state_is_writable
from fdfed.process.metrics import process_registry, serving
from tests.unit.fdfed.process.test_metrics import free_port


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def asked(health: Health, path: str) -> tuple[int, dict[str, str]]:
    answer = health.answer(path)
    assert answer is not None
    return answer[0], json.loads(answer[1])["checks"]


def test_a_loop_that_stands_still_is_told_by_its_silence() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    clock.now = SILENT_SECONDS
    assert pulse.check() == ""
    clock.now += 1
    assert pulse.check() == "has not gone round for 901 s"
    pulse.beat()
    assert pulse.check() == ""


def test_ready_takes_what_live_takes_and_more() -> None:
    trouble = {"loop": "", "port": "is not bound"}
    health = Health(live={"loop": lambda: trouble["loop"]}, ready={"port": lambda: trouble["port"]})
    assert asked(health, "/healthz") == (200, {"loop": "ok"})
    assert asked(health, "/readyz") == (503, {"loop": "ok", "port": "is not bound"})
    trouble.update(loop="stands still", port="")
    assert asked(health, "/healthz") == (503, {"loop": "stands still"})
    assert asked(health, "/readyz") == (503, {"loop": "stands still", "port": "ok"})
    assert health.answer("/metrics") is None


def test_a_check_that_fails_is_a_finding_and_tells_no_path() -> None:
    def check() -> str:
        raise OSError(2, "No such file", "/etc/fdfed/secret.key")

    status, checks = asked(Health(live={"key": check}), "/healthz")
    assert (status, checks) == (503, {"key": "cannot be checked (FileNotFoundError)"})


def test_a_state_folder_that_takes_no_file_is_not_ready(tmp_path: Path) -> None:
    assert state_is_writable(tmp_path) == ""
    assert not list(tmp_path.iterdir())
    assert "No such file" in state_is_writable(tmp_path / "gone")


def test_a_certificate_that_has_ended_is_named_with_its_day() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    ends = {"ours": now - timedelta(days=1), "theirs": now + timedelta(days=1)}
    assert not_expired(ends, now=now) == "ours expired on 2026-02-28"


def read(url: str) -> tuple[int, str]:
    assert url.startswith("http://127.0.0.1:")
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()


def test_the_port_of_the_metrics_answers_for_the_health_too() -> None:
    trouble, port = [""], free_port()
    health = Health(live={"loop": lambda: ""}, ready={"state": lambda: trouble[0]})
    with serving(process_registry(), health, address="127.0.0.1", port=port, setting="x"):
        base = f"http://127.0.0.1:{port}"
        status, body = read(f"{base}/readyz")
        assert (status, json.loads(body)["status"]) == (200, "ok")
        trouble[0] = "cannot be written"
        status, body = read(f"{base}/readyz")
        assert status == 503
        assert json.loads(body)["checks"]["state"] == "cannot be written"
        assert read(f"{base}/healthz")[0] == 200
        assert read(f"{base}/other")[0] == 404


def test_a_loop_that_was_told_to_stop_ends_at_its_next_beat() -> None:
    pulse = Pulse()
    pulse.beat()
    pulse.stop()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pulse.beat()

"""Serving metrics: on loopback, from a registry of one's own, and never in the way."""

from __future__ import annotations

import socket
import urllib.request

import pytest
from prometheus_client import Gauge
from prometheus_client.parser import text_string_to_metric_families

from fdfed.process.health import Health
from fdfed.process.metrics import process_registry, serving


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_what_the_registry_holds_is_served_while_the_context_lasts() -> None:
    registry, port = process_registry(), free_port()
    Gauge("fdfed_answer", "For the test.", registry=registry).set(42)
    with serving(registry, Health(), address="127.0.0.1", port=port, setting="metrics_port"):
        found = scrape(port)
        assert found["fdfed_answer"] == 42
        assert found["process_resident_memory_bytes"] > 0
    with pytest.raises(OSError, match="refused"):
        scrape(port)


def test_two_registries_of_one_process_share_nothing() -> None:
    first, second = process_registry(), process_registry()
    Gauge("fdfed_answer", "For the test.", registry=first).set(1)
    assert second.get_sample_value("fdfed_answer") is None


def test_a_port_that_is_taken_is_a_warning_that_names_the_setting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serving(
            process_registry(), Health(), address="127.0.0.1", port=port, setting="metrics_port"
        ):
            pass
    assert "set metrics_port to a free port" in caplog.text


def test_port_zero_serves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with serving(process_registry(), Health(), address="127.0.0.1", port=0, setting="metrics_port"):
        pass
    assert not caplog.records

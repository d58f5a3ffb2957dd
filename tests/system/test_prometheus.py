"""Alert rules, dashboards and a real Prometheus that reads a real run."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.system.federation import DEPLOY, SITES, Federation, Prometheus, eventually, get, tool

DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RULES = DEPLOY / "prometheus" / "fdfed.rules.yml"
OF_TROUBLE = re.compile(r"(refused|held_back)_total\[\w+\]\) > 0|fdfed_sites_missing")
"""Queries that find nothing while nothing is wrong."""


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        [tool("promtool"), *arguments],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_and_the_rules_are_what_prometheus_takes() -> None:
    assert "rules found" in promtool("check", "config", "prometheus.yml")


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", "fdfed.rules.test.yml")


def test_no_alert_is_without_a_test_and_an_action() -> None:
    alerts = re.findall(r"alert: (\w+)", RULES.read_text())
    tests = RULES.with_name("fdfed.rules.test.yml").read_text()
    assert len(alerts) >= 9
    for alert in alerts:
        fired = re.search(rf"alertname: {alert}\n\s+exp_alerts:\n\s+- ", tests)
        assert fired, f"{alert} is never seen firing"
    assert RULES.read_text().count("action:") == len(alerts)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_of_the_form_that_grafana_defines(path: Path) -> None:
    written = json.loads(path.read_text())
    read = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(written)))
    assert not list(lost(written, read)), "Grafana's model knows no such field"
    ids = [panel["id"] for panel in written["panels"]]
    assert len(set(ids)) == len(ids)


def lost(written: Any, read: Any, place: str = "") -> Any:
    """The places of `written` that did not get through Grafana's own model."""
    if isinstance(written, dict):
        for key, value in written.items():
            if not isinstance(read, dict) or key not in read:
                yield f"{place}/{key}"
            else:
                yield from lost(value, read[key], f"{place}/{key}")
    elif isinstance(written, list):
        for number, (one, other) in enumerate(zip(written, read, strict=True)):
            yield from lost(one, other, f"{place}[{number}]")
    elif written != read:
        yield place


def test_prometheus_reads_a_run_and_every_panel_has_something_to_show(
    federation: Federation, prometheus: Prometheus
) -> None:
    def value(expression: str) -> float:
        found = prometheus.query(expression)
        assert found, expression
        return float(found[0]["value"][1])

    federation.pause_in_phase_2()
    eventually(lambda: value("fdfed_exchange_steps_total{outcome='complete'}") >= 1)
    for query in panel_queries():
        # A rate needs two looks.
        answer = eventually(lambda query=query: [prometheus.query(query)], seconds=20)[0]
        if not OF_TROUBLE.search(query):
            assert eventually(lambda query=query: prometheus.query(query), seconds=30), query
        assert isinstance(answer, list)
    assert value("fdfed_sites_online") == len(SITES)
    assert value("min(up)") == 1
    assert value("sum(fdfed_agent_bytes_total{direction='out'})") > 0
    rules = prometheus.ask("/api/v1/rules")["groups"][0]["rules"]
    assert all(rule["health"] in ("ok", "unknown") for rule in rules), rules


def test_what_prometheus_has_is_what_the_coordinator_says(
    federation: Federation, prometheus: Prometheus
) -> None:
    text = get(f"http://127.0.0.1:{federation.metrics_port}/metrics")
    (planned,) = re.findall(r"^fdfed_rounds_planned (\S+)$", text, re.MULTILINE)
    (found,) = prometheus.query("fdfed_rounds_planned")
    assert float(found["value"][1]) == float(planned) == 21
    for site in SITES:
        assert f'fdfed_site_online{{site="{site}"}}' in text


def panel_queries() -> list[str]:
    """Every query of every dashboard."""
    documents = [json.loads(path.read_text()) for path in DASHBOARDS]
    panels = [panel for document in documents for panel in document["panels"]]
    return [target["expr"] for panel in panels for target in panel["targets"]]

"""A federation of real processes on phantoms, and a real Prometheus that reads it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest
import tomli_w

from fdfed_server.config import FederationConfig
from fdfed_server.provision import provision
from tests.processes import free_ports
from tests.system.federation import (
    DEPLOY,
    RUN,
    SITES,
    Federation,
    Prometheus,
    eventually,
    get,
    tool,
)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation of three sites that has just begun."""
    folder = tmp_path_factory.mktemp("system") / "federation"
    fleet, exchange, control, *watched = free_ports(7)
    metrics, console, agent_metrics, agent_console = watched
    provision(
        SITES, folder, fleet_port=fleet, exchange_port=exchange, control_port=control, days=90
    )
    config = folder / "server" / "federation.toml"
    server = FederationConfig.load(config).model_dump(mode="json")["server"]
    server |= {"metrics_port": metrics, "console_port": console}
    config.write_text(tomli_w.dumps({"server": server, "run": RUN}))
    with (folder / "sites" / SITES[0] / "site.toml").open("a") as appended:
        appended.write(f"metrics_port = {agent_metrics}\nconsole_port = {agent_console}\n")
    made = Federation(folder, metrics, console, agent_metrics, agent_console)
    made.start("server", "fdfed_server.cli", "start", "--config", str(config))
    for site in SITES:
        settings = str(folder / "sites" / site / "site.toml")
        agent = ("fdfed_client.cli", "--site", site, "--config", settings)
        made.start(site, *agent, "--phantoms", "--threads", "1")
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def prometheus(
    federation: Federation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Prometheus with the shipped configuration, but the run's port and a look each second."""
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copy(DEPLOY / "prometheus" / "fdfed.rules.yml", folder)
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    text = text.replace("127.0.0.1:9464", f"127.0.0.1:{federation.metrics_port}")
    text = text.replace("127.0.0.1:9465", f"127.0.0.1:{federation.agent_metrics_port}")
    (folder / "prometheus.yml").write_text(text.replace("15s", "2s"))
    (port,) = free_ports(1)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    made = Prometheus(f"http://127.0.0.1:{port}")
    try:
        eventually(lambda: get(f"{made.address}/-/ready"))
        yield made
    finally:
        process.terminate()
        process.wait(20)

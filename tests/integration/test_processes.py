"""Coordinator and agents as separate operating-system processes over TLS, on real images where
they are at hand, to the end; and the same federation in one process gives the same bits."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tomli_w
import torch

from fdfed.audit import exported, verify
from fdfed.config import RunPlan
from fdfed.simulation import simulate
from fdfed_server.config import FederationConfig
from fdfed_server.provision import provision

SITES = ("tnbc", "monuseg")
RUN = {
    "sites": list(SITES),
    "width": 4,
    "size": 32,
    "rounds": 4,
    "steps_per_round": 2,
    "batch_size": 4,
    # A secret from the seed, so that all runs compute the same bits; one test has a fresh one.
    "exchange": {"required": True, "blinding": "deterministic"},
}


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def real_data() -> Path | None:
    """The folder of real sites, if there is one: FDFED_DATA, else ../shared/data."""
    places = [os.environ.get("FDFED_DATA"), Path(__file__).parents[3] / "shared" / "data"]
    for place in places:
        if place and all((Path(place) / site / "images").is_dir() for site in SITES):
            return Path(place)
    return None


@dataclass
class Deployment:
    """A provisioned federation in a folder, and the processes that were started for it."""

    folder: Path
    data: Path | None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "server" / "federation.toml"

    @property
    def state(self) -> Path:
        return FederationConfig.load(self.config).server.state

    def start(self, name: str) -> None:
        if name == "server":
            command = ["fdfed_server.cli", "start", "--config", str(self.config)]
        else:
            site = self.folder / "sites" / name / "site.toml"
            images = ["--phantoms"] if self.data is None else ["--data", str(self.data)]
            command = ["fdfed_client.cli", "--site", name, "--config", str(site), *images]
            command += ["--threads", "1"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-c", f"import {command[0]} as c; c.main()", *command[1:]],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def await_end(self, name: str, seconds: float = 200) -> int:
        return self.processes[name].wait(seconds)

    def await_log(self, name: str, text: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while text not in self.log(name):
            assert time.monotonic() < end, f"{name} never said {text!r}:\n{self.log(name)}"
            time.sleep(0.1)

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    deployment = deployed(tmp_path / "federation", SITES, RUN, data=real_data())
    yield deployment
    deployment.stop()


def deployed(
    folder: Path, sites: Sequence[str], plan: Mapping[str, object], *, data: Path | None
) -> Deployment:
    """A federation of these sites, provisioned; on phantoms without `data`."""
    run = dict(plan)
    fleet, exchange, control = free_ports(3)
    provision(sites, folder, fleet_port=fleet, exchange_port=exchange, control_port=control, days=2)
    config = folder / "server" / "federation.toml"
    tables = FederationConfig.load(config).model_dump(mode="json")
    if data is None:
        run["phantoms"] = True
    config.write_text(tomli_w.dumps({"server": _server_table(tables["server"]), "run": run}))
    for site in sites:
        with (folder / "sites" / site / "site.toml").open("a") as settings:
            settings.write("allow_deterministic = true\n")
    return Deployment(folder, data)


def _server_table(server: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in server.items() if value is not None}


def simulated(
    deployment: Deployment, out: Path, plan: Mapping[str, object] = RUN
) -> dict[str, np.ndarray]:
    torch.set_num_threads(1)
    simulate(RunPlan.model_validate(plan), data=deployment.data, out=out)
    return safetensors.numpy.load_file(out / "model.safetensors")


def model_of(deployment: Deployment) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(deployment.state / "results" / "model.safetensors")


def assert_equal_bits(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.slow
def test_separate_processes_over_tls_end_and_equal_the_simulation_bit_for_bit(
    deployment: Deployment, tmp_path: Path
) -> None:
    for name in ("server", *SITES):
        deployment.start(name)
    assert deployment.await_end("server") == 0, deployment.log("server")
    results = json.loads((deployment.state / "results" / "results.json").read_text())
    assert set(results["sites"]) == set(SITES)
    assert len(results["rounds"]) == RUN["rounds"]
    assert results["exchange"]["steps"] == 2 * 2 * 1  # sites × steps × rounds of phase 2
    assert results["exchange"]["answered"] == results["exchange"]["steps"]
    assert results["exchange"]["peers_mean"] == 1
    assert results["phantoms"] is (deployment.data is None)
    assert results["privacy"]["sealed"] is True
    assert results["privacy"]["blinded"] is False
    for name in ("server", *SITES):
        first = deployment.log(name).splitlines()[0]
        assert "layers: mutual TLS; prototypes are sealed (mlkem768-x25519)" in first, first
    assert "per_image" not in results
    assert verify(deployment.state).findings == []
    for site in SITES:
        deployment.await_log(site, "evaluate message answered")
        local = list((deployment.folder / "sites" / site / "state" / "local").glob("*/images.csv"))
        assert len(local) == 1, "the site's own report is missing"
        assert_audited(deployment, site)
    assert_equal_bits(model_of(deployment), simulated(deployment, tmp_path / "simulation"))


def assert_audited(deployment: Deployment, site: str) -> None:
    """The site's log is sound, and has a line for each thing that left."""
    verdict = verify(deployment.folder / "sites" / site / "state")
    assert verdict.findings == []
    lines = [json.loads(line) for line in exported(deployment.folder / "sites" / site / "state")]
    left = Counter((x["kind"], x.get("state")) for x in lines if x["direction"] == "out")
    assert left["prepared", None] == 1
    assert left["trained", None] == RUN["rounds"]
    # One round of phase 2.
    assert left["prototypes", "begun"] == left["prototypes", "ended"] == 1
    (ended,) = [line for line in lines if line.get("state") == "ended"]
    assert ended["frames"] == RUN["steps_per_round"]
    assert not [line for line in lines if line.get("decision") == "refused"]


@pytest.mark.slow
def test_with_a_secret_of_the_sites_alone_the_result_differs_by_rounding_alone(
    deployment: Deployment, tmp_path: Path
) -> None:
    text = deployment.config.read_text()
    deployment.config.write_text(text.replace('blinding = "deterministic"', 'blinding = "on"'))
    for name in ("server", *SITES):
        deployment.start(name)
    assert deployment.await_end("server") == 0, deployment.log("server")
    assert "blinding: on" in deployment.log("server")
    for site in SITES:
        assert "with a secret of monuseg, tnbc" in deployment.log(site)
        assert "two sites alone" in deployment.log(site)
        assert (deployment.folder / "sites" / site / "state" / "group-epoch").exists()
    results = json.loads((deployment.state / "results" / "results.json").read_text())
    assert results["privacy"]["blinded"] is True
    assert results["exchange"]["answered"] == 2 * 2 * 1
    expected = simulated(deployment, tmp_path / "simulation")
    for name, value in model_of(deployment).items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.slow
def test_a_killed_coordinator_goes_on_where_it_was_and_changes_no_bit(
    deployment: Deployment, tmp_path: Path
) -> None:
    for name in ("server", *SITES):
        deployment.start(name)
    deployment.await_log("server", "round 2 is complete")
    deployment.processes["server"].kill()
    deployment.await_end("server")
    deployment.start("server")
    assert deployment.await_end("server") == 0, deployment.log("server")
    assert deployment.log("server").count("round 2 is complete") == 1
    assert_equal_bits(model_of(deployment), simulated(deployment, tmp_path / "simulation"))


THREE = ("tnbc", "monuseg", "udiat")
MASKED = RUN | {"sites": list(THREE), "rounds": 2, "aggregation": "masked"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_masked_processes_end_and_equal_the_simulation_bit_for_bit(tmp_path: Path) -> None:
    """The sum is exact, so that other keys, and the order of arrival, change no bit of it."""
    deployment = deployed(tmp_path / "federation", THREE, MASKED, data=None)
    try:
        for name in ("server", *THREE):
            deployment.start(name)
        assert deployment.await_end("server", 400) == 0, deployment.log("server")
        assert "weights: masked, this process reads their sum alone" in deployment.log("server")
        for site in THREE:
            assert "weights: masked if the plan is, among 3 sites" in deployment.log(site)
            assert "aggregation: masked among monuseg, tnbc, udiat" in deployment.log(site)
        results = json.loads((deployment.state / "results" / "results.json").read_text())
        assert results["privacy"]["secure_aggregation"] is True
        assert results["rounds"][1]["drift"] is None
        assert results["rounds"][1]["sites"]["udiat"]["loss_seg"] is None
        assert results["rounds"][1]["loss_seg"] > 0
        assert_equal_bits(model_of(deployment), simulated(deployment, tmp_path / "one", MASKED))
    finally:
        deployment.stop()


@pytest.mark.slow
def test_a_plan_that_masks_among_two_is_refused_by_sites_that_ask_for_three(
    tmp_path: Path,
) -> None:
    plan = RUN | {"aggregation": "masked"}
    deployment = deployed(tmp_path / "federation", SITES, plan, data=None)
    try:
        for name in ("server", *SITES):
            deployment.start(name)
        assert deployment.await_end("server") != 0
        log = deployment.log("server")
        assert "masked, but of two sites each has the other's update" in log
        assert "its own policy forbids it" in log
        for site in SITES:
            assert "min_masked_sites is 3" in deployment.log(site), deployment.log(site)
    finally:
        deployment.stop()

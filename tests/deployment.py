"""A provisioned federation in a folder, its parties as operating-system processes, and what their
run must come to: the weights of the same federation in one process."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy
import tomli_w
import torch

from fdfed.config import RunPlan
from fdfed.simulation import simulate
from fdfed_server.config import FederationConfig
from fdfed_server.provision import provision
from tests.processes import end_processes, free_ports, start_process


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

    def command(self, name: str) -> list[str]:
        """Package and arguments of a party."""
        if name == "server":
            return ["fdfed_server", "start", "--config", str(self.config)]
        site = self.folder / "sites" / name / "site.toml"
        images = ["--phantoms"] if self.data is None else ["--data", str(self.data)]
        return ["fdfed_client", "--site", name, "--config", str(site), *images, "--threads", "1"]

    def start(self, name: str) -> None:
        command = self.command(name)
        self.processes[name] = start_process(
            [f"{command[0]}.cli", *command[1:]], self.folder / f"{name}.log"
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
        end_processes(self.processes.values())


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
    deployment: Deployment, out: Path, plan: Mapping[str, object]
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

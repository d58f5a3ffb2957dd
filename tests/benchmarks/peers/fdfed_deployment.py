"""fdfed as hospitals run it: coordinator, SuperLink and an agent a site, each a process, mutual
TLS, roster, signed audit logs, state on disk after every round.

`fdfed_deployment.py SITES ROUNDS FOLDER [score]`; with `score`, every round is validated too, as is
usual for it and for no peer.

The times are taken from what it writes itself: an agent's audit log has when each instruction
arrived, the results have how long each site's training took.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import tomli_w
from common import IMAGES, LEARNING_RATE, SIDE, tell

from fdfed_server.config import FederationConfig
from fdfed_server.provision import provision

PORTS = {"fleet_port": 18743, "exchange_port": 18744, "control_port": 18745}
HERE = Path(__file__).parent


def main() -> None:
    count, rounds, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    names = [f"site{number}" for number in range(count)]
    provision(names, folder, days=2, **PORTS)
    config = folder / "server" / "federation.toml"
    server = FederationConfig.load(config).server.model_dump(mode="json")
    server |= {"metrics_port": 0, "console_port": 0}
    run = {
        "sites": names,
        "network": "peers-unet",
        "strategy": "fedavg",
        "loss": "seg",
        "optimizer": "sgd",
        "learning_rate": LEARNING_RATE,
        "learning_rate_schedule": "constant",
        "in_channels": 1,
        "size": SIDE,
        "batch_size": IMAGES,
        "rounds": rounds,
        "steps_per_round": 1,
        "evaluate_every": 1 if "score" in sys.argv[4:] else rounds,
        "phantoms": True,
        "precision": "fp32",
    }
    config.write_text(tomli_w.dumps({"server": _known(server), "run": run}))
    tell("prepared")
    environment = os.environ | {"PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}"}

    def start(package: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (folder / f"{package}{len(agents)}.log").open("w") as log:
            code = f"import {package}.cli as c; c.main()"
            command = [sys.executable, "-c", code, *arguments]
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    agents: list[subprocess.Popen[bytes]] = []
    coordinator = start("fdfed_server", "start", "--config", str(config))
    for name in names:
        settings = folder / "sites" / name / "site.toml"
        with settings.open("a") as file:
            file.write("metrics_port = 0\nconsole_port = 0\n")
        options = ["--site", name, "--config", str(settings), "--phantoms", "--threads", "1"]
        agents.append(start("fdfed_client", *options))
    try:
        if coordinator.wait(60 + 30 * rounds):
            raise SystemExit("the coordinator failed; see its log")
        tell("ended")
    finally:
        for process in (*agents, coordinator):
            process.send_signal(signal.SIGTERM)
        for process in (*agents, coordinator):
            process.wait(30)
    _tell_afterwards(folder, names)


def _tell_afterwards(folder: Path, names: list[str]) -> None:
    results = json.loads((folder / "server" / "state" / "results" / "results.json").read_text())
    for number, name in enumerate(names):
        for text in (folder / "sites" / name / "state" / "audit.log").read_text().splitlines():
            line = json.loads(text)
            if line["direction"] == "in" and line["kind"] == "train":
                when = datetime.fromisoformat(line["time"]).timestamp()
                tell("received", site=number, round=line["round"] - 1, time=when)
    for record in results["rounds"]:
        for name, site in record["sites"].items():
            own = {"site": names.index(name), "seconds": site["seconds"]}
            tell("stepped", round=record["round"] - 1, **own)


def _known(table: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in table.items() if value is not None}


if __name__ == "__main__":
    main()

"""Flower's SuperLink with a SuperNode a site, as its documentation starts them, without TLS:
`flower_deployment.py SITES ROUNDS FOLDER`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from common import tell

PORT = 18640
HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


def main() -> None:
    sites, rounds, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    home = folder / "flwr"
    home.mkdir(parents=True)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{PORT}"\n'
        "insecure = true\n"
    )
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "PYTHONPATH": str(HERE),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    processes = []

    def start(name: str, *arguments: object) -> None:
        with (folder / f"{arguments[0]}.log").open("a") as log:
            command = [str(BIN / name), *map(str, arguments[1:])]
            processes.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            )

    try:
        start(
            "flower-superlink", "link", "--insecure", "--host", "127.0.0.1", "--port", PORT,
            "--disable-runtime-dependency-installation",
        )  # fmt: skip
        _await_port(PORT)
        for site in range(sites):
            start(
                "flower-supernode", f"node{site}", "--insecure", "--superlink",
                f"127.0.0.1:{PORT}", "--host", "127.0.0.1", "--port", PORT + 10 + site,
                "--node-config", f"partition-id={site} num-partitions={sites}",
            )  # fmt: skip
        submit = [str(BIN / "flwr"), "run", str(HERE / "flower_app"), "here", "--run-config"]
        with (folder / "run.log").open("w") as log:
            subprocess.run(
                [*submit, f"rounds={rounds} sites={sites}"], env=environment, check=True,
                stdout=log, stderr=log,
            )  # fmt: skip
        log_file, deadline = Path(os.environ["PEERS_LOG"]), time.monotonic() + 60 + 40 * rounds
        while '"event": "ended"' not in log_file.read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
    tell("left")


def _await_port(port: int) -> None:
    for _ in range(1200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"port {port} never opened")


if __name__ == "__main__":
    main()

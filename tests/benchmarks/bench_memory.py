"""Prints how the memory of coordinator, SuperLink and agents grows over the rounds of a run.

    python -m tests.benchmarks.bench_memory [--rounds 1000] [--sites 2] [--folder DIR]

A tiny federation of processes on phantoms, over TLS, with the exchange on in the second half of its
rounds. Once a second the resident memory of each process is noted beside the round that the
coordinator is in. The growth is that over the last three tenths of the rounds: the exchange, which
begins later, takes memory of its own, once.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tests.faults.drills import PLAN
from tests.faults.federation import Drilled, drilled

_BEGINS = re.compile(r"round (\d+) begins")


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def watch(federation: Drilled, rounds: int) -> dict[str, list[tuple[int, float]]]:
    """(round, MiB) of each process, once a second."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    log, current = (federation.folder / "server.log").open(), 0
    while federation.runs("server"):
        for text in _BEGINS.findall(log.read()):
            current = int(text)
        for name in ("server", "superlink", *federation.sites):
            pid = federation.pid(name)
            if pid is not None and 0 < current <= rounds:
                try:
                    found[name].append((current, resident_mib(pid)))
                except (OSError, IndexError):
                    continue
        time.sleep(1.0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    sites = [f"site{number}" for number in range(arguments.sites)]
    plan = dict(PLAN) | {
        "sites": sites, "rounds": arguments.rounds, "steps_per_round": 1, "evaluate_every": 10,
        "exchange": {"blinding": "deterministic"},
    }  # fmt: skip
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        federation = drilled(Path(temporary) / "federation", sites, plan)
        began = time.monotonic()
        try:
            federation.begin()
            found = watch(federation, arguments.rounds)
        finally:
            federation.stop()
        seconds = time.monotonic() - began
        if federation.processes["server"].returncode:
            raise SystemExit(federation.log("server")[-2000:])
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {platform.machine()}, {os.cpu_count()} "
        f"processors; {arguments.rounds} rounds of {len(sites)} sites in {seconds:.0f} s"
    )
    marks = (0.1, 0.3, 0.5, 0.7, 1.0)
    columns = [f"MiB at {mark:.0%}" for mark in marks] + ["MiB a round"]
    print("| process | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, rows in found.items():
        rounds, mib = np.array([n for n, _ in rows]), np.array([m for _, m in rows])
        values = [mib[np.searchsorted(rounds, mark * rounds[-1])] for mark in marks]
        slope = (values[-1] - values[-2]) / (0.3 * rounds[-1])
        cells = [f"{value:.1f}" for value in values] + [f"{slope:+.3f}"]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

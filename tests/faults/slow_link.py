"""Rounds of a large model over a slow line: what they take beside the line's own time, and what
happens meanwhile.

    python -m tests.faults.slow_link [--megabits 10] [--width 40] [--rounds 1]

Two sites on phantoms, as processes over TLS, each behind a line of its own with so many Mbit/s in
either direction. The line's own time is that of the bytes that crossed it, one direction after the
other. Training takes seconds, since the images are tiny.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

from tests.benchmarks.bench_memory import resident_mib
from tests.faults.drills import PLAN, SITES
from tests.faults.federation import Drilled, drilled


class Watch(threading.Thread):
    """Notes once a second the resident memory of each process, and what crossed the lines."""

    def __init__(self, federation: Drilled) -> None:
        super().__init__(daemon=True)
        self._federation = federation
        self._done = threading.Event()
        self.peak: dict[str, float] = {}
        self.crossed: list[tuple[float, int, int]] = []
        """When, and bytes up and down so far, of the first site."""

    def run(self) -> None:
        line = self._federation.proxies[SITES[0], "fleet"]
        while not self._done.wait(1.0):
            self.crossed.append((time.monotonic(), line.passed[False], line.passed[True]))
            for name in ("server", "superlink", *SITES):
                pid = self._federation.pid(name)
                try:
                    seen = 0.0 if pid is None else resident_mib(pid)
                except (OSError, IndexError):
                    continue
                self.peak[name] = max(self.peak.get(name, 0.0), seen)

    def stop(self) -> None:
        self._done.set()
        self.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabits", type=float, default=10.0)
    parser.add_argument("--width", type=int, default=40, help="of the U-Net")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    rate = arguments.megabits * 1e6 / 8
    plan = dict(PLAN) | {
        "width": arguments.width, "rounds": arguments.rounds, "steps_per_round": 1,
        "evaluate_every": 1, "round_deadline_seconds": 3600.0,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        federation = drilled(Path(temporary) / "federation", SITES, plan)
        for proxy in federation.proxies.values():
            proxy.set(bytes_per_second=rate)
        watch = Watch(federation)
        try:
            federation.begin()
            watch.start()
            began = time.monotonic()
            federation.await_run(3600.0)
            seconds = time.monotonic() - began
        finally:
            watch.stop()
            federation.stop()
        model = (federation.state / "results" / "model.safetensors").stat().st_size
        results = json.loads((federation.state / "results" / "results.json").read_text())
        logs = {name: federation.log(name) for name in ("server", *SITES)}
    print(f"model of {model / 1e6:.1f} MB, {arguments.megabits:g} Mbit/s in either direction")
    _, up, down = watch.crossed[-1]
    own = (up + down) / rate
    attempts = [record["attempt"] for record in results["rounds"]]
    print(f"run of {arguments.rounds} round(s) in {seconds:.0f} s; attempts of each: {attempts}")
    print(
        f"crossed {SITES[0]}'s line: {up / 1e6:.1f} MB up, {down / 1e6:.1f} MB down; its own time "
        f"for them is {own:.0f} s"
    )
    for name, text in logs.items():
        kept = [line for line in text.splitlines() if "again" in line or "anew" in line]
        print(f"{name}: {len(kept)} line(s) of trouble", *kept[:5], sep="\n  ")
    for name, peak in watch.peak.items():
        print(f"{name}: {peak:.0f} MiB resident at most")
    _print_pace(watch, rate)


def _print_pace(watch: Watch, rate: float) -> None:
    """How full the line was in the ten-second spans in which it was used."""
    shares = []
    for earlier, later in zip(watch.crossed[:-10:10], watch.crossed[10::10], strict=False):
        crossed = later[1] + later[2] - earlier[1] - earlier[2]
        share = crossed / (rate * (later[0] - earlier[0]))
        if share > 0.1:
            shares.append(share)
    print("share of the line used, by spans of 10 s:", *(f"{share:.2f}" for share in shares))


if __name__ == "__main__":
    main()

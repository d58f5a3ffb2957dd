"""Random drills, one run after the other, unattended: `python -m tests.faults.soak`.

    python -m tests.faults.soak [--runs 14] [--faults 16] [--seed 0] [--kinds usual]
        [--out runs/drills] [--table]

Each run has its own seed, which alone decides its faults; a run that is in `outcomes.jsonl` already
is not repeated, so that a series that was stopped goes on. What a failed run left is kept beside
it. `--only SEED` repeats one run. At the end there is a table, also with `--table` alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tests.deployment import simulated
from tests.faults.drills import (
    CLOCK_KINDS,
    DISK_KINDS,
    KINDS,
    PLAN,
    SITES,
    Kinds,
    random_drills,
    run_drills,
)
from tests.faults.federation import Drilled, drilled, may_mount
from tests.faults.parties import have_clocks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=14)
    parser.add_argument("--faults", type=int, default=16, help="in each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/drills"))
    parser.add_argument(
        "--kinds", choices=("usual", "machine", "all"), default="usual",
        help="machine: full and read-only file systems and clocks; needs root and cc",
    )  # fmt: skip
    parser.add_argument("--table", action="store_true", help="of what is there; nothing is run")
    arguments = parser.parse_args()
    # A series that is told to stop ends its parties with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    file = out / "outcomes.jsonl"
    if not arguments.table:
        _series(out, file, arguments)
    found = _read(file)
    (out / "table.md").write_text(table(found))
    print(table(found))
    return int(any(outcome["failure"] for outcome in found.values()))


def _series(out: Path, file: Path, arguments: argparse.Namespace) -> None:
    seeds = range(arguments.seed, arguments.seed + arguments.runs)
    if arguments.only is not None:
        seeds = range(arguments.only, arguments.only + 1)
    done = set(_read(file)) if arguments.only is None else set()
    kinds, of_machine = _kinds(arguments.kinds)
    if of_machine:
        have_clocks()
    federation: Drilled | None = None
    expected: Mapping[str, np.ndarray] = {}
    try:
        for seed in seeds:
            if seed in done:
                continue
            if federation is None:
                shutil.rmtree(out / "federation", ignore_errors=True)
                federation = drilled(
                    out / "federation", SITES, PLAN, disks=of_machine, clocks=of_machine
                )
                plan = dict(PLAN) | {"phantoms": True}
                expected = expected or simulated(federation, out / "undisturbed", plan)
            drills = random_drills(seed, arguments.faults, kinds)
            print(f"run {seed}: " + ", ".join(map(str, drills)), flush=True)
            outcome = run_drills(federation, drills, expected)
            print(f"  {outcome.failure or 'as it should be'} ({outcome.seconds} s)", flush=True)
            load = {"load": round(os.getloadavg()[0], 1), "seed": seed}
            line = json.loads(outcome.to_json()) | load | {"when": datetime.now(UTC).isoformat()}
            with file.open("a") as lines:
                lines.write(json.dumps(line) + "\n")
            if outcome.failure:
                # What it left may befall the next run: that one begins with a new federation.
                shutil.rmtree(out / f"failed-{seed}", ignore_errors=True)
                shutil.copytree(federation.folder, out / f"failed-{seed}", symlinks=True)
                federation.stop()
                federation = None
    finally:
        if federation is not None:
            federation.stop()


def _kinds(chosen: str) -> tuple[Kinds, bool]:
    """The kinds of faults, and whether they want file systems and clocks of their own."""
    of_machine = {**DISK_KINDS, **CLOCK_KINDS}
    if chosen == "usual":
        return KINDS, False
    if not may_mount() or shutil.which("cc") is None:
        sys.exit("these faults need the right to mount (root) and a C compiler (cc)")
    return (of_machine if chosen == "machine" else {**KINDS, **of_machine}), True


def _read(file: Path) -> dict[int, dict[str, Any]]:
    """The newest outcome of each seed."""
    if not file.exists():
        return {}
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {line["seed"]: line for line in lines}


def table(found: Mapping[int, Mapping[str, Any]]) -> str:
    """What befell, how often, and what came of it, as Markdown. A failed run counts for each of
    its faults."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    recoveries: dict[str, list[float]] = defaultdict(list)
    for outcome in found.values():
        for number, drill in enumerate(outcome["drills"]):
            name = f"{drill['kind']} {_sort_of(drill['target'])}"
            groups[name].append(outcome)
            recoveries[name] += outcome["recovered"][number : number + 1]
    lines = [
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}; "
        f"{len(found)} runs, {sum(len(o['drills']) for o in found.values())} faults, "
        f"{sum(bool(o['failure']) for o in found.values())} runs failed",
        "",
        "| fault | times | in failed runs | s to the end of the next round, median (most) |",
        "|---|---|---|---|",
    ]
    for name, outcomes in sorted(groups.items()):
        failed = sum(bool(outcome["failure"]) for outcome in outcomes)
        known = recoveries.get(name)
        text = f"{statistics.median(known):.1f} ({max(known):.1f})" if known else "–"
        lines.append(f"| {name} | {len(outcomes)} | {failed} | {text} |")
    return "\n".join(lines) + "\n"


def _sort_of(target: str) -> str:
    parts = target.split("/")
    if len(parts) == 2:
        return f"a site's {parts[1]} connection"
    names = ["an agent" if name in SITES else f"the {name}" for name in target.split("+")]
    if names == ["an agent", "an agent"]:
        return "both agents"
    return (
        " and ".join(names)
        .replace("the server", "the coordinator")
        .replace("superlink", "SuperLink")
    )


if __name__ == "__main__":
    sys.exit(main())

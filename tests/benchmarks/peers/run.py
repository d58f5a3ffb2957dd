"""fdfed beside other systems on the same work, one after the other, in one run.

    python tests/benchmarks/peers/run.py --environments FOLDER [--systems bare,fdfed,…]
        [--sites 2,4] [--rounds 6] [--repeats 3] [--out runs/peers]

The work is the same for all: a U-Net of 1.6 million parameters, eight images of 64 x 64 a site, one
step of gradient descent a round, plain averaging. What is measured is what the system adds: the
period from one round's first receipt at a site to the next one's, less the slowest site's training.
README.md beside this file says what each system needs; one that is not there is left out, and said.

The table has medians over all periods but the first of each run (warm-up), with the least and the
largest; start-up from the command to the first receipt of a model by a site, without what a person
does once (certificates, a plan); processor time of the
run over all processes; the largest sum of proportional memory (PSS) over all processes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
LIMIT_SECONDS = 420


@dataclass(frozen=True)
class System:
    """A system of the comparison: the environment it runs in, and its script."""

    environment: str
    """Folder below `--environments`; empty for the Python that runs this."""
    script: str
    module: str
    """What must be importable there."""
    extra: tuple[str, ...] = ()


SYSTEMS = {
    "bare": System("", "bare.py", "monai"),
    "fdfed": System("", "fdfed_deployment.py", "fdfed_server"),
    "fdfed-simulation": System("", "fdfed_simulation.py", "fdfed_server"),
    "fdfed-scored": System("", "fdfed_deployment.py", "fdfed_server", ("score",)),
    "flower-old": System("flower", "flower_old.py", "flwr"),
    "flower": System("flower", "flower_deployment.py", "flwr"),
    "nvflare": System("nvflare", "nvflare_job.py", "nvflare"),
    "nvflare-tuned": System("nvflare", "nvflare_job.py", "nvflare", ("tuned",)),
    "openfl": System("openfl", "openfl_run.py", "openfl"),
}


@dataclass
class Watched:
    """What was seen of a run's processes from outside."""

    processor_seconds: float = 0.0
    memory_mib: float = 0.0
    processes: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", type=Path, default=Path("runs/peers/environments"))
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--sites", default="2,4")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in arguments.systems.split(",") if _is_there(name, arguments)]
    file = arguments.out / "runs.jsonl"
    for repeat in range(arguments.repeats):
        for sites in map(int, arguments.sites.split(",")):
            for name in wanted:
                found = run(name, sites, arguments.rounds, arguments) | {"repeat": repeat}
                print(json.dumps(found), flush=True)
                with file.open("a") as lines:
                    lines.write(json.dumps(found) + "\n")
    print()
    print(table([json.loads(line) for line in file.read_text().splitlines()]))


def run(name: str, sites: int, rounds: int, arguments: argparse.Namespace) -> dict[str, object]:
    """One run of one system."""
    system, tag = SYSTEMS[name], uuid.uuid4().hex
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        log = folder / "events.jsonl"
        log.touch()
        environment = os.environ | {
            "PEERS_LOG": str(log),
            "PEERS_TAG": tag,
            "PEERS_FOLDER": str(HERE),
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
        }
        (folder / "work").mkdir()
        load, began, watched = os.getloadavg()[0], time.time(), Watched()
        output = (arguments.out / f"{name}-{sites}.log").open("w")
        process = subprocess.Popen(
            [str(_python(system, arguments)), str(HERE / system.script), str(sites), str(rounds),
             str(folder / "work"), *system.extra],
            cwd=HERE, env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        seconds: dict[int, float] = {}
        while process.poll() is None and time.time() - began < LIMIT_SECONDS:
            _watch(tag, watched, seconds)
            time.sleep(0.25)
        if process.poll() is None:
            process.kill()
        for pid, _ in _tagged(tag):
            # Known by the run's own tag: nothing else on the machine carries it.
            os.kill(pid, 9)
        watched.processor_seconds = sum(seconds.values())
        events = [json.loads(line) for line in log.read_text().splitlines()]
        failed = process.returncode or not any(e["event"] == "ended" for e in events)
        if failed:
            for kept in (folder / "work").rglob("*.log"):
                shutil.copy(kept, arguments.out / f"{name}-{sites}-{kept.name}")
        return {
            "system": name,
            "sites": sites,
            "load": round(load, 1),
            "complete": not failed,
            **_measures(name, events, began),
            "processor_seconds": round(watched.processor_seconds, 1),
            "memory_mib": round(watched.memory_mib),
            "processes": watched.processes,
        }


def _measures(name: str, events: list[dict[str, float]], began: float) -> dict[str, object]:
    received, stepped = defaultdict(list), defaultdict(list)
    for event in events:
        if event["event"] == "prepared":
            began = event["time"]
        elif event["event"] == "received":
            received[event["round"]].append(event["time"])
        elif event["event"] == "stepped":
            stepped[event["round"]].append(event["seconds"])
    rounds = sorted(received)
    if len(rounds) < 3:
        return {"startup": None, "periods": [], "steps": [], "added": []}
    first = {number: min(times) for number, times in received.items()}
    periods = [first[b] - first[a] for a, b in itertools.pairwise(rounds)][1:]
    # A bare loop trains its sites one after the other, the systems at the same time.
    of_round = sum if name == "bare" else max
    steps = [of_round(stepped[number]) for number in rounds[1:-1]]
    return {
        "startup": round(min(received[rounds[0]]) - began, 2),
        "periods": [round(value, 4) for value in periods],
        "steps": [round(value, 4) for value in steps],
        "added": [round(a - b, 4) for a, b in zip(periods, steps, strict=True)],
    }


def table(found: list[dict[str, object]]) -> str:
    """The runs so far as a table in Markdown."""
    groups: dict[tuple[int, str], list[dict[str, object]]] = defaultdict(list)
    for entry in found:
        groups[entry["sites"], entry["system"]].append(entry)
    lines = [
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
        "",
        "| sites | system | runs | complete | added s/round, median (least–most) | training s | "
        "start-up s | processor s | memory MiB | processes | load before |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (sites, name), runs in sorted(groups.items()):
        added = [value for entry in runs for value in entry["added"]]
        steps = [value for entry in runs for value in entry["steps"]]
        startup = [entry["startup"] for entry in runs if entry["startup"]]
        spread = f"{statistics.median(added):.2f} ({min(added):.2f}–{max(added):.2f})"
        lines.append(
            f"| {sites} | {name} | {len(runs)} | {sum(bool(r['complete']) for r in runs)} | "
            f"{spread if added else '–'} | {_median(steps)} | {_median(startup)} | "
            f"{_median([r['processor_seconds'] for r in runs])} | "
            f"{_median([r['memory_mib'] for r in runs], 0)} | "
            f"{max(r['processes'] for r in runs)} | {_median([r['load'] for r in runs])} |"
            if added
            else f"| {sites} | {name} | {len(runs)} | 0 | – | | | | | | |"
        )
    return "\n".join(lines)


def _median(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f}" if values else "–"


def _is_there(name: str, arguments: argparse.Namespace) -> bool:
    system = SYSTEMS[name]
    python = _python(system, arguments)
    code = f"import importlib.util as u; raise SystemExit(u.find_spec({system.module!r}) is None)"
    if python.exists() and subprocess.run([str(python), "-c", code], check=False).returncode == 0:
        return True
    print(f"{name} is left out: {python} has no {system.module}; see README.md")
    return False


def _python(system: System, arguments: argparse.Namespace) -> Path:
    if not system.environment:
        return Path(sys.executable)
    return Path(arguments.environments).absolute() / system.environment / "bin" / "python"


def _watch(tag: str, watched: Watched, seconds: dict[int, float]) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    memory, count = 0.0, 0
    for pid, folder in _tagged(tag):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            rollup = (folder / "smaps_rollup").read_text()
        except OSError:
            continue
        seconds[pid] = (int(fields[11]) + int(fields[12])) / tick
        memory += int(rollup.split("\nPss:")[1].split()[0]) / 1024
        count += 1
    watched.memory_mib = max(watched.memory_mib, memory)
    watched.processes = max(watched.processes, count)


def _tagged(tag: str) -> Iterator[tuple[int, Path]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                mine = f"PEERS_TAG={tag}".encode() in (folder / "environ").read_bytes()
            except OSError:
                continue
            if mine:
                yield int(folder.name), folder


if __name__ == "__main__":
    main()

"""Fuzzes every target in turn, and leaves a table: `python -m tests.fuzz.run --inputs 1000000`.

Needs the extra `fuzz` (atheris). One process at a time. What the fuzzer finds worth keeping stays
in the folder and is where the next run begins; an input that broke a parser is kept beside it, and
the run goes on with the next target.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.target import CORPUS, Target
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
SECONDS_PER_INPUT = 10
"""From then on an input counts as a hang."""


@dataclass(frozen=True)
class Outcome:
    """What became of one target."""

    target: str
    inputs: int
    seconds: float
    failures: int
    kept: int
    """Inputs in its corpus now: those of the repository, and those found."""
    branches: float
    """Share of the branches of the target's modules that the corpus takes."""


def fuzz(target: Target, inputs: int, out: Path) -> Outcome:
    """Hands `inputs` inputs to one target, and replays what was kept for its coverage."""
    folder = out / target.name
    found, seeds = folder / "found", CORPUS / target.name
    found.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with (folder / "log").open("w") as log:
        command = _python(
            "tests.fuzz.one",
            target.name,
            f"-runs={inputs}",
            f"-max_len={target.max_bytes}",
            f"-timeout={SECONDS_PER_INPUT}",
            f"-artifact_prefix={folder}/",
            "-rss_limit_mb=0",  # one.py limits the address space instead, which raises an error
            "-print_final_stats=1",
            *(str(path) for path in (found, seeds)),
        )
        status = subprocess.run(
            command, cwd=ROOT, env=_environment(), stderr=log, stdout=log, check=False
        )
    seconds = time.monotonic() - start
    executed = re.findall(r"number_of_executed_units: (\d+)", (folder / "log").read_text())
    kept = [path for path in (seeds, found) if any(path.iterdir())]
    return Outcome(
        target=target.name,
        inputs=int(executed[-1]) if executed else 0,
        seconds=seconds,
        failures=int(status.returncode != 0),
        kept=sum(len(list(path.iterdir())) for path in kept),
        branches=_branches(target, kept, folder),
    )


def _branches(target: Target, folders: list[Path], folder: Path) -> float:
    data = f"--data-file={folder}/coverage"
    include = f"--include={','.join(target.parsers)}"
    measure = _python("coverage", "run", data, "--branch", include, "-m", "tests.fuzz.replay")
    paths = [str(path) for path in folders]
    subprocess.run([*measure, target.name, *paths], cwd=ROOT, env=_environment(), check=False)
    report = folder / "coverage.json"
    command = _python("coverage", "json", data, "--quiet", "-o", str(report))
    subprocess.run(command, cwd=ROOT, check=True)
    totals = json.loads(report.read_text())["totals"]
    return float(totals["covered_branches"] / max(1, totals["num_branches"]))


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _environment() -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / part) for part in (".", "server", "client"))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def table(outcomes: list[Outcome]) -> str:
    """The outcomes in Markdown."""
    lines = ["| target | inputs | seconds | failures | corpus | branches |", "|---|" + "--:|" * 5]
    for o in outcomes:
        lines.append(
            f"| {o.target} | {o.inputs:,} | {o.seconds:,.0f} | {o.failures} | {o.kept} "
            f"| {o.branches:.0%} |"
        )
    inputs, failures = sum(o.inputs for o in outcomes), sum(o.failures for o in outcomes)
    seconds = sum(o.seconds for o in outcomes)
    lines.append(f"| **all** | **{inputs:,}** | {seconds:,.0f} | **{failures}** | | |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """0 if every input was taken or refused."""
    parser = argparse.ArgumentParser(description="Fuzzes every parser of foreign bytes.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="over all targets")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="this one alone")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "soak")
    options = parser.parse_args()
    names = options.target or list(TARGETS)
    shares = sum(1 / TARGETS[name].cost for name in names)
    outcomes = []
    for name in names:
        inputs = math.ceil(options.inputs / TARGETS[name].cost / shares)
        outcomes.append(fuzz(TARGETS[name], inputs, options.out.resolve()))
        (options.out / "table.md").write_text(table(outcomes))
        print(table(outcomes[-1:]).splitlines()[2], flush=True)
    return min(1, sum(outcome.failures for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

"""Four sites of which some leave for good, one comes late, and for a while too few are left.

    python -m tests.faults.departures [--folder runs/departures]

A quorum is three. Prints what each round took and who was in it; ends with an error if the run did
not go as it must.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from tests.faults.drills import PLAN
from tests.faults.federation import Drilled, drilled

SITES = ("a", "b", "c", "d")
ROUNDS = 12


def play(federation: Drilled) -> list[str]:
    """The story, and what was seen of it."""
    told, began = [], time.monotonic()

    def tell(text: str) -> None:
        told.append(f"{time.monotonic() - began:6.1f} s  {text}")
        print(told[-1], flush=True)

    federation.begin()
    federation.await_round(2, 300)
    tell("round 2 begins with four sites; d leaves for good")
    _leave(federation, "d")
    federation.await_round(5, 300)
    tell("round 5 begins without d; d is there again after all")
    _come(federation, "d")
    federation.await_round(7, 300)
    tell("round 7 begins; a and b leave, which is too few")
    _leave(federation, "a")
    _leave(federation, "b")
    _await_log(federation, "waiting for a, b")
    tell("the coordinator waits for a and b, and says so")
    time.sleep(5)
    assert federation.runs("server"), "it does not give the run up"
    _come(federation, "b")
    federation.await_run(600)
    tell("b has come back, a has not: the run is complete")
    return told


def check(federation: Drilled) -> None:
    results = json.loads((federation.state / "results" / "results.json").read_text())
    there = [
        {site for site, entry in record["sites"].items() if not entry["refused"]}
        for record in results["rounds"]
    ]
    for record, sites in zip(results["rounds"], there, strict=True):
        print(
            f"round {record['round']}: {record['seconds']:.1f} s, attempt {record['attempt']}, "
            f"{', '.join(sorted(sites))}"
        )
    assert len(there) == ROUNDS, "every round is there once"
    assert all(len(sites) >= 3 for sites in there), "none under its quorum"
    assert there[0] == set(SITES), "all were there at first"
    assert any(sites == {"a", "b", "c"} for sites in there), "d was done without"
    assert "d" in there[-1], "and took part again"
    assert there[-1] == {"b", "c", "d"}, "a is gone for good"


def _leave(federation: Drilled, site: str) -> None:
    federation.held.add(site)
    federation.kill(site)


def _come(federation: Drilled, site: str) -> None:
    federation.held.discard(site)
    federation.turn()


def _await_log(federation: Drilled, text: str, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while text not in federation.log("server"):
        federation.turn()
        assert time.monotonic() < end, f"the coordinator never said {text!r}"
        time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/departures"))
    folder: Path = parser.parse_args().folder
    shutil.rmtree(folder, ignore_errors=True)
    plan = dict(PLAN) | {
        "sites": list(SITES), "quorum": 3, "rounds": ROUNDS,
        "exchange": {"deadline_seconds": 5.0},
    }  # fmt: skip
    federation = drilled(folder, SITES, plan)
    try:
        play(federation)
        check(federation)
    finally:
        federation.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

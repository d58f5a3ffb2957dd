"""What can go wrong, at which moment, and what a run must come to all the same."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fdfed.audit import verify
from fdfed_server.config import FederationConfig
from tests.deployment import model_of
from tests.faults.federation import Drilled, DrillFailed

SITES = ("tnbc", "monuseg")
PLAN: Mapping[str, Any] = {
    "sites": list(SITES),
    "width": 4,
    "size": 32,
    "rounds": 12,
    "steps_per_round": 3,
    "batch_size": 2,
    "evaluate_every": 3,
    "attempts": 8,
    "round_deadline_seconds": 120.0,
    # A step that lost its term fails the round, which is tried again: no fault changes a bit.
    "exchange": {"required": True, "blinding": "deterministic", "deadline_seconds": 5.0},
}
RUN_SECONDS = 240.0
"""From the last fault on; a party that is gone without a word is missed after 30 s."""


@dataclass(frozen=True)
class Drill:
    """One fault at one moment."""

    kind: str
    target: str
    """A party, or `site/port` of the network."""
    server_round: int
    """It happens in this round,"""
    after: float
    """so much later, as a share of what the round before took (of a second, in the first)."""
    lasts: float
    """Seconds; of a party that is killed, until it is started again."""
    amount: float = 0.0
    """Seconds by which a clock is off."""

    def __str__(self) -> str:
        return f"{self.kind} {self.target}"


@dataclass(frozen=True)
class Outcome:
    """What became of a run with its faults."""

    drills: tuple[Drill, ...]
    failure: str
    """Empty if everything held."""
    seconds: float
    recovered: tuple[float, ...]
    """Of each fault, seconds from its end to the end of the next round."""
    starts: Mapping[str, int]

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def kill(federation: Drilled, drill: Drill) -> None:
    names = drill.target.split("+")
    federation.held |= set(names)
    try:
        for name in names:
            federation.kill(name)
        time.sleep(drill.lasts)
    finally:
        federation.held -= set(names)
    federation.turn()


def freeze(federation: Drilled, drill: Drill) -> None:
    with federation.frozen(drill.target):
        time.sleep(drill.lasts)


def full_disk(federation: Drilled, drill: Drill) -> None:
    with federation.full_disk(drill.target):
        time.sleep(drill.lasts)


def full_file_system(federation: Drilled, drill: Drill) -> None:
    with federation.full_file_system(drill.target):
        time.sleep(drill.lasts)


def read_only(federation: Drilled, drill: Drill) -> None:
    with federation.read_only(drill.target):
        time.sleep(drill.lasts)


def clock_off(federation: Drilled, drill: Drill) -> None:
    with federation.clock_off(drill.target, drill.amount):
        time.sleep(drill.lasts)


def reset(federation: Drilled, drill: Drill) -> None:
    _proxy(federation, drill).cut()


def half_close(federation: Drilled, drill: Drill) -> None:
    _proxy(federation, drill).half_close()


def lose_answer(federation: Drilled, drill: Drill) -> None:
    _proxy(federation, drill).set(lose_answers=1 + int(3 * drill.lasts) % 3)
    time.sleep(drill.lasts)
    federation.heal()


def cut(federation: Drilled, drill: Drill) -> None:
    _proxy(federation, drill).cut(refuse=True)
    time.sleep(drill.lasts)
    federation.heal()


def _weather(**fields: object) -> Callable[[Drilled, Drill], None]:
    def befall(federation: Drilled, drill: Drill) -> None:
        _proxy(federation, drill).set(**fields)
        time.sleep(drill.lasts)
        federation.heal()

    return befall


PARTIES = ("server", "superlink", *SITES)
LINES = tuple(f"{site}/{port}" for site in SITES for port in ("fleet", "exchange"))
_WEIGHTS = {"kill": 4}
"""How often a kind comes beside the others."""
Kinds = Mapping[str, tuple[Callable[[Drilled, Drill], None], tuple[str, ...], float]]
KINDS: Kinds = {
    "kill": (kill, (*PARTIES, *PARTIES, "server+tnbc", "tnbc+monuseg"), 2.0),
    "freeze": (freeze, PARTIES, 4.0),
    "fill the disk of": (full_disk, PARTIES, 3.0),
    "cut": (cut, LINES, 4.0),
    "reset": (reset, LINES, 0.0),
    "half-close": (half_close, LINES, 0.0),
    "lose answers on": (lose_answer, LINES, 2.0),
    "silence": (_weather(silent=True), LINES, 6.0),
    "delay": (_weather(delay_seconds=0.1), LINES, 3.0),
    "throttle": (_weather(bytes_per_second=40_000), LINES, 4.0),
}
"""How it is done, to whom, and how long at most."""
DISK_KINDS: Kinds = {
    "use up the file system of": (full_file_system, ("server", *SITES), 4.0),
    "make read-only the state of": (read_only, ("server", *SITES), 4.0),
}
"""For a federation with `disks`."""
CLOCK_KINDS: Kinds = {"set the clock of": (clock_off, ("server", *SITES), 6.0)}
"""For a federation with `clocks`."""
ALL_KINDS: Kinds = {**KINDS, **DISK_KINDS, **CLOCK_KINDS}
CLOCK_SECONDS = (2.0, 20.0, 600.0, 90_000.0)
"""Within what Flower forgives, just beyond, far beyond, and beyond the life of a certificate."""


def _proxy(federation: Drilled, drill: Drill) -> Any:
    site, port = drill.target.split("/")
    return federation.proxies[site, port]


def random_drills(seed: int, count: int, kinds: Kinds = KINDS) -> tuple[Drill, ...]:
    """Faults of one run, in the order in which they happen; a function of the arguments alone."""
    rng = random.Random(seed)  # noqa: S311  (not a secret)
    rounds = sorted(rng.choices(range(1, int(PLAN["rounds"]) + 1), k=count))
    drills = []
    for server_round in rounds:
        (kind,) = rng.choices(list(kinds), weights=[_WEIGHTS.get(kind, 1) for kind in kinds])
        _, targets, longest = kinds[kind]
        drills.append(
            Drill(
                kind=kind,
                target=rng.choice(targets),
                server_round=server_round,
                after=round(rng.uniform(0.0, 1.0), 3),
                lasts=round(rng.uniform(0.1, 1.0) * longest, 3),
                amount=rng.choice((-1, 1)) * rng.choice(CLOCK_SECONDS)
                if kind in CLOCK_KINDS
                else 0.0,
            )
        )
    return tuple(drills)


def run_drills(
    federation: Drilled, drills: tuple[Drill, ...], expected: Mapping[str, np.ndarray]
) -> Outcome:
    """One run with these faults, and whether it came to what it must come to."""
    began, ends, failure = time.monotonic(), [], ""
    try:
        federation.begin()
        for drill in drills:
            federation.await_round(drill.server_round)
            time.sleep(drill.after * federation.round_seconds())
            ALL_KINDS[drill.kind][0](federation, drill)
            federation.turn()
            ends.append(time.monotonic())
        federation.await_run(RUN_SECONDS)
        check_run(federation, expected)
    except AssertionError as err:
        failure = str(err).strip() or repr(err)
    finally:
        federation.heal()
    return Outcome(
        drills=drills,
        failure=failure,
        seconds=round(time.monotonic() - began, 1),
        recovered=tuple(round(federation.next_completion(end) - end, 1) for end in ends),
        starts=dict(federation.starts),
    )


def check_run(federation: Drilled, expected: Mapping[str, np.ndarray]) -> None:
    """
    Raises:
        DrillFailed: for the first thing that is not as it must be.
    """
    results = json.loads((federation.state / "results" / "results.json").read_text())
    rounds = [record["round"] for record in results["rounds"]]
    if rounds != list(range(1, FederationConfig.load(federation.config).run.rounds + 1)):
        raise DrillFailed(f"the results have the rounds {rounds}")
    for record in results["rounds"]:
        refused = {site: entry["refused"] for site, entry in record["sites"].items()}
        if any(refused.values()):
            raise DrillFailed(f"round {record['round']} lacks a site: {refused}")
    log = federation.log("server")
    twice = [n for n in rounds if log.count(f"round {n} is complete") > 1]
    if twice:
        raise DrillFailed(f"rounds were completed twice: {twice}")
    _check_audit(federation)
    model = model_of(federation)
    differing = [n for n in expected if not np.array_equal(model[n], expected[n])]
    if differing or set(model) != set(expected):
        raise DrillFailed(f"{len(differing)} tensors differ from the undisturbed run's")
    parts = [path for path in federation.state.rglob("*") if ".part" in path.name]
    if parts:
        raise DrillFailed(f"half-written files are left: {parts[:3]}")


def _check_audit(federation: Drilled) -> None:
    states = {site: federation.folder / "sites" / site / "state" for site in SITES}
    for name, state in (states | {"server": federation.state}).items():
        findings = verify(state).findings
        if findings:
            raise DrillFailed(f"the audit log of {name}: {findings[:2]}")

"""The study of one hostile site in four: what the honest three still score, by defence.

Two sites of histology, each cut in two by patients, make four of one kind; the last one is hostile.
Every trial trains the whole method with the exchange, is scored on the test images of the three
honest sites, and is kept in a file of its own.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from fdfed.config import RunPlan, parse
from fdfed.data import SiteData
from fdfed.errors import QuorumNotMet
from fdfed.evaluation.results import RunResults
from fdfed.files.atomic_file import write_text
from fdfed.simulation import Progress, open_sites, simulate_sites
from fdfed.studies.held_out import DRAW
from fdfed.studies.hostile.behaviours import HOSTILITIES

SOURCES: Final = ("tnbc", "monuseg")
HALVES: Final = 2
HOSTILE: Final = "monuseg-2"
SEEDS: Final = 2

DEFENCES: Final[Mapping[str, Mapping[str, object]]] = MappingProxyType(
    {
        "none": {"defence": {"update_bound": "off"}},
        "bound": {},
        "trimmed mean": {"aggregation": "robust", "defence": {"robust": "trimmed_mean"}},
        "median": {"aggregation": "robust", "defence": {"robust": "median"}},
    }
)
"""What of the plan differs; `bound` is the default."""

_PLAN: Final[Mapping[str, Any]] = {
    "network": "unet",
    "width": 8,
    "norm": "group",
    "in_channels": 3,
    "size": 64,
    "rounds": 12,
    "steps_per_round": 10,
    "batch_size": 8,
    "evaluate_every": 2,
    "learning_rate": 1e-3,
    "learning_rate_schedule": "constant",
    "strategy": "fdfed",
    "loss": "fd+exch",
    "warm_start": True,
    "phase_2_start": "best",
    "method": {"bound": "none"},
    "split": {"set_aside": DRAW},
}


@dataclass(frozen=True, slots=True)
class HostileResult:
    """What came of one trial."""

    hostility: str
    defence: str
    seed: int
    dice: Mapping[str, float | None]
    """Mean test Dice of each honest site; None where it is not known."""
    refused: int
    """Rounds in which the hostile site's update was refused."""
    bounded: int
    """Rounds in which it was scaled down or clipped."""
    failure: str
    seconds: float

    @property
    def mean(self) -> float | None:
        """Dice, mean over the honest sites."""
        known = [value for value in self.dice.values() if value is not None]
        return math.fsum(known) / len(known) if known else None


def trials() -> Iterator[tuple[str, str, int]]:
    """(hostility, defence, seed) of all trials: a whole table before the next seed."""
    for seed in range(SEEDS):
        for hostility in HOSTILITIES:
            for defence in DEFENCES:
                yield hostility, defence, seed


def run_hostile_study(
    data: Path,
    out: Path,
    *,
    stop_after_seconds: float = math.inf,
    on_trial: Callable[[str, float], None] = lambda name, seconds: None,
    chosen: Iterator[tuple[str, str, int]] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> bool:
    """Trains what is missing, one trial after the other; whether nothing is missing now.

    Args:
        data: folder with one folder per site.
        out: gains a file a trial.
        stop_after_seconds: no trial begins later.
        on_trial: told the name of each trial that is done, and its seconds.
        chosen: all trials by default.
        changes: of the study's plan, for tests.
    """
    began = time.monotonic()
    for hostility, defence, seed in chosen or trials():
        path = _path(out, hostility, defence, seed)
        if path.exists():
            continue
        if time.monotonic() - began > stop_after_seconds:
            return False
        result = run_hostile_trial(data, out, hostility, defence, seed, changes=changes or {})
        write_text(path, json.dumps(asdict(result), indent=1))
        on_trial(path.stem, result.seconds)
    return True


def run_hostile_trial(
    data: Path,
    out: Path,
    hostility: str,
    defence: str,
    seed: int,
    *,
    changes: Mapping[str, Any],
) -> HostileResult:
    """One trial, whatever became of it."""
    began = time.monotonic()
    sources = parse(
        RunPlan, {**_PLAN, **changes, "sites": list(SOURCES), "seed": seed}, source="the study"
    )
    sites = dict(_halves(open_sites(sources, data)))
    plan = parse(
        RunPlan,
        {
            **_PLAN,
            **DEFENCES[defence],
            **changes,
            "sites": list(sites),
            "quorum": len(sites) - 1,
            "phantoms": all(images.phantoms for images in sites.values()),
            "seed": seed,
        },
        source="the study",
    )
    hostile = HOSTILITIES[hostility]
    sites[HOSTILE] = hostile.images(sites[HOSTILE])
    folder = out / "runs" / _path(out, hostility, defence, seed).stem
    failure, results = "", None
    try:
        results = simulate_sites(
            plan,
            sites,
            out=folder,
            progress=Progress(
                watch_exchange=lambda site, exchange: (
                    hostile.exchange(exchange) if site == HOSTILE else exchange
                )
            ),
            behaviours={HOSTILE: hostile.behaviour},
        )
    except QuorumNotMet as err:
        failure = str(err)
    honest = [site for site in sites if site != HOSTILE]
    return HostileResult(
        hostility=hostility,
        defence=defence,
        seed=seed,
        dice={site: _dice(results, site) for site in honest},
        refused=_rounds(results, lambda entry: entry.refused is not None),
        bounded=_rounds(results, lambda entry: bool(entry.bounded_to or entry.clipped)),
        failure=failure,
        seconds=round(time.monotonic() - began, 1),
    )


def load_hostile_results(out: Path) -> list[HostileResult]:
    """The trials that are done, in the order of `trials`."""
    paths = [_path(out, *trial) for trial in trials()]
    return [HostileResult(**json.loads(path.read_text())) for path in paths if path.exists()]


def _path(out: Path, hostility: str, defence: str, seed: int) -> Path:
    return out / "trials" / f"{hostility}_{defence.replace(' ', '-')}_{seed}.json"


def _halves(opened: Mapping[str, SiteData]) -> Iterator[tuple[str, SiteData]]:
    """Each site's patients dealt out to `HALVES` sites, part by part."""
    for name, images in opened.items():
        for half in range(HALVES):
            own = {}
            for part, indices in images.parts.items():
                patients = sorted({images.all_cases[index].patient for index in indices})
                mine = set(patients[half::HALVES])
                own[part] = tuple(i for i in indices if images.all_cases[i].patient in mine)
            site = f"{name}-{half + 1}"
            yield site, replace(images, name=site, parts=own)


def _dice(results: RunResults | None, site: str) -> float | None:
    found = None if results is None else results.sites.get(site)
    return None if found is None else found.dice


def _rounds(results: RunResults | None, holds: Callable[[Any], bool]) -> int:
    if results is None:
        return 0
    entries = (record.sites.get(HOSTILE) for record in results.rounds)
    return sum(entry is not None and holds(entry) for entry in entries)

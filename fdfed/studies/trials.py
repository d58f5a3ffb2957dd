"""One trial of a study: a run plan, trained once, its validation curve and diagnostics kept.

A trial lives in `OUT/trials/<digest of what its plan says>/`. `result.json` is written last and in
one move, so a trial is either complete or not there; one that was cut goes on after its last
complete round. Results are never deleted, also those of losers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch

from fdfed.atomic_file import write_text
from fdfed.config import RunPlan
from fdfed.data import SiteData
from fdfed.errors import DataError, QuorumNotMet
from fdfed.evaluation.results import RoundRecord, is_known
from fdfed.simulation import Progress, open_sites, simulate_sites
from fdfed.studies.algorithm_1 import train_algorithm_1
from fdfed.studies.cotangents import CotangentLog, LagError, read_errors
from fdfed.studies.diagnostics import TapDiagnostics, diagnose
from fdfed.studies.phase_one import put_phase_1, take_phase_1
from fdfed.training.initialise import initial_network
from fdfed.training.step import layout_of
from fdfed_server.observer import Observer, Several

PLATEAU_SHARE: Final = 0.2
"""The last fifth of the steps, over which a trial is scored."""

ALGORITHM_1: Final = "algorithm-1"
"""The method of a trial that is no simulation: pooled training by the paper's Algorithm 1."""

_RESULT: Final = "result.json"
_TRIAL: Final = "trial.json"
_TAKEN: Final = "shared-rounds"
_EXCHANGED: Final = (
    "steps", "answered", "dropped", "peers_mean", "staleness_mean", "staleness_max",
    "bytes_up", "bytes_down",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried: a method in a configuration, on one fold with one seed."""

    group: str
    """The sites together, such as `histology`."""
    method: str
    config: str
    """What differs from the method's base configuration, such as `lr=3e-3`; `base`: nothing."""
    plan: RunPlan

    @property
    def name(self) -> str:
        """The trial's folder: a digest of what the study says explicitly in the plan. Equal trials
        are one, however often a study asks for them, and keep their name when a later version
        adds a setting to the plan."""
        said = self.plan.model_dump(mode="json", exclude_unset=True)
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def replicate(self) -> tuple[int, int]:
        """(fold, seed)."""
        return self.plan.split.fold or 0, self.plan.seed


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """A finished trial. Dice are fractions, on validation folds; no test image is ever read."""

    name: str
    group: str
    method: str
    config: str
    fold: int
    seed: int
    steps: int
    """Training steps of each site."""
    score: float | None
    """Dice, mean over the last fifth of the steps, then over sites; None if the run diverged."""
    site_scores: Mapping[str, float] = field(default_factory=dict)
    slope: float | None = None
    """Score less the same mean over the fifth before: near zero at a plateau."""
    curve: Sequence[tuple[int, Mapping[str, float]]] = ()
    """(steps, Dice by site) of every validation."""
    alpha: Mapping[str, float] = field(default_factory=dict)
    """α of each tap in the last round."""
    taps: Mapping[str, TapDiagnostics] = field(default_factory=dict)
    seconds: float = 0.0
    """Wall-clock seconds of the rounds that this trial trained itself."""
    shared_rounds: int = 0
    """Rounds of phase 1 that another trial had trained, bit for bit the same."""
    exchange: Mapping[str, float | int] = field(default_factory=dict)
    """What the exchange did over the whole run, as in `results.json`, without what the clock says;
    empty without one."""
    cotangents: Mapping[str, Mapping[int, LagError]] = field(default_factory=dict)
    """By tap and lag: how fast the cotangents go stale. A trial that was cut has measured the
    rounds since."""
    failure: str = ""
    """Why there is no score."""
    plan: Mapping[str, Any] = field(default_factory=dict)


def run_trial(
    folder: Path,
    trial: Trial,
    data: Path,
    *,
    shelf: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Trains the trial, or what is left of it, and writes its result; nothing if it has one.

    A run whose weights diverge, so that no update is accepted, is a result too: one without score.

    Args:
        shelf: where trials with the same phase 1 share it; None trains every one.
    """
    if (folder / _RESULT).exists():
        return
    header = {key: getattr(trial, key) for key in ("group", "method", "config")}
    write_text(folder / _TRIAL, json.dumps(header | {"plan": trial.plan.model_dump(mode="json")}))
    sites = open_sites(trial.plan, data, progress=progress)
    kept = [name for name, site in sites.items() if site.parts["test"]]
    if kept:
        raise DataError(f"{', '.join(kept)} hold test images; a trial must be given a fold")
    if trial.method == ALGORITHM_1:
        result = _result(trial, train_algorithm_1(trial.plan, sites, folder / "run" / "state"))
    else:
        result = _simulated(folder, trial, sites, shelf, progress or Progress())
    write_text(folder / _RESULT, json.dumps(asdict(result)))
    # Weights and optimiser states of every trial would fill a disk; the curves are what is kept.
    for part in ("state", "models"):
        shutil.rmtree(folder / "run" / part, ignore_errors=True)


class _Sharing(Observer):
    """Puts phase 1 on the shelf as it ends."""

    def __init__(self, plan: RunPlan, state: Path, shelf: Path) -> None:
        self._plan, self._state, self._shelf = plan, state, shelf

    def round_finished(self, record: RoundRecord) -> None:
        if record.round == self._plan.phase_1_rounds:
            put_phase_1(self._shelf, self._state, self._plan)


def _simulated(
    folder: Path,
    trial: Trial,
    sites: Mapping[str, SiteData],
    shelf: Path | None,
    progress: Progress,
) -> TrialResult:
    plan, state, mark = trial.plan, folder / "run" / "state" / "run", folder / _TAKEN
    if shelf is not None:
        taken = take_phase_1(shelf, state, plan)
        if taken:
            write_text(mark, str(taken))
        sharing = _Sharing(plan, state, shelf)
        progress = replace(progress, observer=Several([sharing, progress.observer]))
    with torch.device("meta"):
        cotangents = CotangentLog(layout_of(initial_network(plan)))
    progress = replace(progress, watch_exchange=cotangents.watch)
    try:
        results = simulate_sites(plan, sites, out=folder / "run", progress=progress)
    except QuorumNotMet as err:
        return _result(trial, (), failure=str(err))
    taps = diagnose(plan, sites, folder / "run")
    taken = int(mark.read_text()) if mark.exists() else 0
    found = _result(trial, results.rounds, taps=taps, shared_rounds=taken)
    exchange = {name: getattr(results.exchange, name) for name in _EXCHANGED}
    return replace(
        found,
        exchange=exchange if results.exchange.steps else {},
        cotangents=cotangents.summary(),
    )


def load_results(out: Path) -> dict[str, TrialResult]:
    """Every finished trial below `out`, by its name."""
    found = {}
    for path in sorted((out / "trials").glob(f"*/{_RESULT}")):
        values = json.loads(path.read_text(encoding="utf-8"))
        values["taps"] = {tap: TapDiagnostics(**entry) for tap, entry in values["taps"].items()}
        values["cotangents"] = read_errors(values.get("cotangents", {}))
        values["curve"] = tuple((steps, dice) for steps, dice in values["curve"])
        found[path.parent.name] = TrialResult(**values)
    return found


def folder_of(out: Path, trial: Trial) -> Path:
    """Where the trial lives."""
    return out / "trials" / trial.name


def completed_rounds(folder: Path) -> int:
    """Rounds that a trial under way has behind it."""
    try:
        state = json.loads((folder / "run" / "state" / "run" / "state.json").read_bytes())
    except (OSError, ValueError):
        return 0
    return int(state["completed_rounds"])


def _result(
    trial: Trial,
    rounds: Sequence[RoundRecord],
    *,
    taps: Mapping[str, TapDiagnostics] | None = None,
    shared_rounds: int = 0,
    failure: str = "",
) -> TrialResult:
    plan = trial.plan
    curve = [
        (record.round * plan.steps_per_round, dice)
        for record in rounds
        if (dice := _known_dice(record))
    ]
    steps = plan.rounds * plan.steps_per_round
    last = _mean_after(curve, (1 - PLATEAU_SHARE) * steps, float(steps))
    before = _mean_after(curve, (1 - 2 * PLATEAU_SHARE) * steps, (1 - PLATEAU_SHARE) * steps)
    score = _mean(last.values()) if last else None
    fold, seed = trial.replicate
    return TrialResult(
        name=trial.name,
        group=trial.group,
        method=trial.method,
        config=trial.config,
        fold=fold,
        seed=seed,
        steps=steps,
        score=score,
        site_scores=last,
        slope=score - _mean(before.values()) if score is not None and before else None,
        curve=curve,
        alpha=dict(rounds[-1].alpha) if rounds else {},
        taps=taps or {},
        seconds=sum(record.seconds or 0.0 for record in rounds[shared_rounds:]),
        shared_rounds=shared_rounds,
        failure=failure,
        plan=plan.model_dump(mode="json"),
    )


def _known_dice(record: RoundRecord) -> dict[str, float]:
    return {
        site: entry.val_dice for site, entry in record.sites.items() if is_known(entry.val_dice)
    }


def _mean_after(
    curve: Iterable[tuple[int, Mapping[str, float]]], after: float, until: float
) -> dict[str, float]:
    """Mean Dice of each site over the validations in (after, until]."""
    values: dict[str, list[float]] = {}
    for steps, dice in curve:
        if after < steps <= until:
            for site, value in dice.items():
                values.setdefault(site, []).append(value)
    return {site: _mean(entries) for site, entries in values.items()}


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)

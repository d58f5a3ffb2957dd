"""One trial of a study: a run plan, trained once, its validation curve and diagnostics kept.

A trial lives in `OUT/trials/<digest of what its plan says>/`. `result.json` is written last and in
one move, so a trial is either complete or not there; one that was cut goes on after its last
complete round. Results are never deleted, also those of losers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from fdfed.config import RunPlan
from fdfed.data import SiteData
from fdfed.errors import DataError, QuorumNotMet
from fdfed.evaluation.results import RoundRecord, is_known
from fdfed.files.atomic_file import replacing, write_text
from fdfed.networks import SegmentationNetwork
from fdfed.simulation import Progress, open_sites, simulate_sites
from fdfed.studies.algorithm_1 import train_algorithm_1
from fdfed.studies.cotangents import CotangentLog, LagError, read_errors
from fdfed.studies.diagnostics import TapDiagnostics, diagnose
from fdfed.studies.phase_one import left_by, put_phase_1, take_phase_1
from fdfed.studies.scored_images import (
    ScoredImage,
    diverged_test_images,
    score_test_images,
    spectral_norms,
)
from fdfed.studies.trainers import TRAINER_NAMES, create_trainer
from fdfed.studies.trainers.sham import Sham
from fdfed.training.device import describe
from fdfed.training.fastest import USUAL, lay_out_
from fdfed.training.initialise import initial_network
from fdfed.training.step import layout_of
from fdfed_server.observer import Observer, Several
from fdfed_server.outputs import MODEL

PLATEAU_SHARE: Final = 0.2
"""The last fifth of the steps, over which a trial is scored."""

ALGORITHM_1: Final = "algorithm-1"
"""The method of a trial that is no simulation: pooled training by the paper's Algorithm 1."""

SHAM: Final = "sham"
"""The trainer that is the simulation with a sham exchange."""

_MODELS: Final = "models"
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
    trainer: str = ""
    """Who trains it: one of `fdfed.studies.trainers`, `SHAM`; else the simulation."""
    parameters: Mapping[str, float] = field(default_factory=dict)
    """The trainer's."""
    opens_test: bool = False
    """Whether it may read the plan's test images. A trial that may not and has some is refused, so
    that nothing is chosen on them."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """The part of a site's training images that it has, or above 1 their number, by site; all of
    them where nothing is said. Subsets are nested."""
    joins_after: int = 0
    """All sites but the first join after this round; 0: all are there from the start."""
    evaluate: tuple[str, ...] = ()
    """Sites beside the plan's that the final common model is tested on, with all images that the
    plan's split leaves: it was trained on none of them."""
    diagnosed: bool = False
    """Whether its result has `taps`, which take as long as a round or two. Not part of its name."""

    @property
    def name(self) -> str:
        """The trial's folder: a digest of what the study says explicitly in the plan. Equal trials
        are one, however often a study asks for them, and keep their name when a later version
        adds a setting to the plan."""
        said = self.plan.model_dump(mode="json", exclude_unset=True)
        said |= {
            key: value
            for key in ("trainer", "parameters", "shares", "joins_after", "evaluate")
            if (value := getattr(self, key))
        }
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def has_own_loop(self) -> bool:
        """Whether it is trained by a loop that the study has, not by the simulation."""
        return self.method == ALGORITHM_1 or self.trainer in TRAINER_NAMES

    @property
    def shelf(self) -> Path | None:
        """Where trials with the same training images keep the phases 1 that they share, below the
        study's shelf; None of a trial that shares none: others join in the middle of it, or it is
        trained by a loop of its own."""
        if self.joins_after or self.has_own_loop:
            return None
        if not self.shares:
            return Path()
        text = json.dumps(self.shares, sort_keys=True)
        return Path(f"part-{hashlib.sha256(text.encode()).hexdigest()[:16]}")

    @property
    def replicate(self) -> tuple[int, int]:
        """(fold, seed)."""
        return self.plan.split.fold or 0, self.plan.seed


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """A finished trial. Dice are fractions, on validation images; test images are apart, and only
    of a trial that may read them."""

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
    """Of a trial that is diagnosed."""
    seconds: float = 0.0
    """Wall-clock seconds of the rounds that this trial trained itself."""
    whole_seconds: float = 0.0
    """Those of all its rounds, whoever trained them."""
    shared_rounds: int = 0
    """Rounds of phase 1 that another trial had trained, bit for bit the same."""
    best_round: int | None = None
    """The round whose common model was tested; None where sites have models of their own."""
    images: Sequence[ScoredImage] = ()
    """The test images under the final model, of a trial that may read them."""
    spectral_norms: Mapping[str, float] = field(default_factory=dict)
    """By layer of the final common model, of a trial whose test images are read."""
    bytes: Mapping[str, int] = field(default_factory=dict)
    """`up` and `down`, all sites and rounds together."""
    exchange: Mapping[str, float | int] = field(default_factory=dict)
    """What the exchange did over the whole run, as in `results.json`, without what the clock says;
    empty without one."""
    cotangents: Mapping[str, Mapping[int, LagError]] = field(default_factory=dict)
    """By tap and lag: how fast the cotangents go stale. A trial that was cut has measured the
    rounds since."""
    failure: str = ""
    """Why there is no score."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    """What it was trained on, the rounds of this trial at least."""


def run_trial(
    folder: Path,
    trial: Trial,
    data: Path,
    *,
    device: torch.device | None = None,
    shelf: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Trains the trial, or what is left of it, and writes its result; nothing if it has one.

    A run whose weights diverge, so that no update is accepted, is a result too: one without score.

    Args:
        device: where networks are computed; the CPU if None.
        shelf: where trials with the same phase 1 share it; None trains every one.
    """
    if (folder / _RESULT).exists():
        return
    device = device or torch.device("cpu")
    header = {key: getattr(trial, key) for key in ("group", "method", "config")}
    name = trial.name
    write_text(folder / _TRIAL, json.dumps(header | {"plan": trial.plan.model_dump(mode="json")}))
    sites = _open(trial, data, progress)
    if any(site.phantoms for site in sites.values()):
        trial = replace(trial, plan=trial.plan.model_copy(update={"phantoms": True}))
    if trial.method == ALGORITHM_1:
        result = _result(
            trial, train_algorithm_1(trial.plan, sites, folder / "run" / "state", device=device)
        )
    elif trial.trainer in TRAINER_NAMES:
        result = _trained(folder, trial, sites, device)
    else:
        place = None if shelf is None or trial.shelf is None else shelf / trial.shelf
        result = _simulated(
            folder, trial, sites, device, shelf=place, progress=progress or Progress()
        )
    if trial.opens_test:
        result = replace(
            result, images=_test_images(folder, trial, sites, data, result, device=device)
        )
        if result.best_round is not None:
            common = final_network(folder, trial.plan)
            result = replace(result, spectral_norms=spectral_norms(common))
    result = replace(result, name=name, device=describe(device))
    write_text(folder / _RESULT, json.dumps(asdict(result)))
    # States of every trial would fill a disk; the curves are what is kept, and tested models, which
    # figures are drawn with.
    for part in ("state",) if trial.opens_test else ("state", _MODELS):
        shutil.rmtree(folder / "run" / part, ignore_errors=True)


class _Joining(Exception):
    """The other sites join now."""


class _UntilJoining(Observer):
    """Ends a run after a round; the run's state is that of the round."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    def round_finished(self, record: RoundRecord) -> None:
        if record.round == self._rounds:
            raise _Joining


def _before_joining(
    folder: Path,
    trial: Trial,
    sites: Mapping[str, SiteData],
    device: torch.device,
    progress: Progress,
) -> None:
    """Trains the first site's federation up to the round after which the others join it."""
    plan = trial.plan.model_copy(update={"sites": trial.plan.sites[:1]})
    observers = Several([progress.observer, _UntilJoining(trial.joins_after)])
    with contextlib.suppress(_Joining):
        simulate_sites(
            plan,
            {name: sites[name] for name in plan.sites},
            out=folder / "run",
            device=device,
            progress=replace(progress, observer=observers),
        )


def _open(trial: Trial, data: Path, progress: Progress | None) -> dict[str, SiteData]:
    """The plan's sites, with as much of their training images as the trial lets them have."""
    sites = open_sites(trial.plan, data, progress=progress)
    kept = [name for name, site in sites.items() if site.parts["test"]]
    if kept and not trial.opens_test:
        raise DataError(f"{', '.join(kept)} hold test images; a trial must be given a fold")
    return {name: _part(site, trial.shares.get(name, 1.0)) for name, site in sites.items()}


def _part(site: SiteData, share: float) -> SiteData:
    count = len(site.parts["train"])
    # Half an image less: the subset rounds up, and a quotient of two integers may lie just above.
    return site.subset(share if share <= 1 else min(1.0, (share - 0.5) / count))


def _trained(
    folder: Path, trial: Trial, sites: Mapping[str, SiteData], device: torch.device
) -> TrialResult:
    trained = create_trainer(
        trial.trainer, trial.plan, sites, folder / "run" / "state", trial.parameters, device=device
    ).train()
    for site, network in trained.networks.items():
        path = folder / "run" / _MODELS / f"{site}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            save_file({n: t.contiguous() for n, t in network.state_dict().items()}, part)
    return _result(trial, trained.history)


def _test_images(
    folder: Path,
    trial: Trial,
    sites: Mapping[str, SiteData],
    data: Path,
    result: TrialResult,
    *,
    device: torch.device,
) -> tuple[ScoredImage, ...]:
    """The test images of the trial's sites, and all images of those it is evaluated on beside."""
    tested = dict(sites)
    if trial.evaluate:
        beside = trial.plan.model_copy(update={"sites": trial.evaluate})
        unseen = open_sites(beside, data)
        tested |= {name: site.all_as_test() for name, site in unseen.items()}
    if result.score is None:
        return diverged_test_images(tested)
    networks = {site: final_network(folder, trial.plan, site).to(device) for site in tested}
    return score_test_images(trial.plan, tested, lambda site: networks[site])


def final_network(folder: Path, plan: RunPlan, site: str = "") -> SegmentationNetwork:
    """The model of a tested trial that the site uses: its own where it has one, else the common
    one; without a site, the common one."""
    own, common = (folder / "run" / path for path in (f"{_MODELS}/{site}.safetensors", MODEL))
    network = initial_network(plan)
    network.load_state_dict(load_file(own if own.exists() else common))
    lay_out_(network, channels_last=USUAL.channels_last)
    return network


class _Sharing(Observer):
    """Puts phase 1 on the shelf as it ends."""

    def __init__(self, plan: RunPlan, state: Path, shelf: Path) -> None:
        self._plan, self._state, self._shelf = plan, state, shelf
        self._left = left_by(plan)

    def round_finished(self, record: RoundRecord) -> None:
        if self._left is not None and record.round == self._left[1]:
            put_phase_1(self._shelf, self._state, self._plan)


def _simulated(
    folder: Path,
    trial: Trial,
    sites: Mapping[str, SiteData],
    device: torch.device,
    *,
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
    progress = replace(progress, watch_exchange=lambda _, exchange: cotangents.watch(exchange))
    if trial.trainer == SHAM:
        sham = Sham(plan.sites, seed=plan.seed, folder=folder / "run" / "state" / SHAM)
        progress = replace(progress, watch_exchange=sham.around)
    try:
        if completed_rounds(folder) < trial.joins_after:
            _before_joining(folder, trial, sites, device, progress)
        results = simulate_sites(plan, sites, out=folder / "run", device=device, progress=progress)
    except QuorumNotMet as err:
        return _result(trial, (), failure=str(err))
    taps = diagnose(plan, sites, folder / "run") if trial.diagnosed else {}
    taken = int(mark.read_text()) if mark.exists() else 0
    found = _result(trial, results.rounds, taps=taps, shared_rounds=taken)
    exchange = {name: getattr(results.exchange, name) for name in _EXCHANGED}
    return replace(
        found,
        best_round=results.model_round,
        bytes=asdict(results.bytes),
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
        values["images"] = tuple(ScoredImage(**image) for image in values.get("images", ()))
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
        bytes={way: sum(getattr(record.bytes, way) for record in rounds) for way in ("up", "down")},
        seconds=sum(record.seconds or 0.0 for record in rounds[shared_rounds:]),
        whole_seconds=sum(record.seconds or 0.0 for record in rounds),
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

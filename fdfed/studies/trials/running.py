"""Trains one trial of a study, once; its validation curve and diagnostics are kept.

A trial lives in `OUT/trials/<digest of what its plan says>/`. `result.json` is written last and in
one move, so a trial is either complete or not there; one that was cut goes on after its last
complete round. Results are never deleted, also those of losers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file

from fdfed.config import RunPlan
from fdfed.data import SiteData
from fdfed.errors import DataError, InvalidInput, QuorumNotMet
from fdfed.evaluation.results import RoundRecord
from fdfed.files.atomic_file import replacing, write_text
from fdfed.networks import SegmentationNetwork
from fdfed.simulation import Progress, open_sites, simulate_sites
from fdfed.studies.algorithm_1 import train_algorithm_1
from fdfed.studies.cotangents import CotangentLog
from fdfed.studies.diagnostics import diagnose
from fdfed.studies.scored_images import (
    ScoredImage,
    diverged_test_images,
    score_test_images,
    spectral_norms,
)
from fdfed.studies.trainers import TRAINER_NAMES, create_trainer
from fdfed.studies.trainers.sham import Sham
from fdfed.studies.trials.joining import BeforeJoining
from fdfed.studies.trials.phase_one import left_by, put_phase_1, take_phase_1
from fdfed.studies.trials.result import RESULT, TrialResult, result_of
from fdfed.studies.trials.trial import ALGORITHM_1, SHAM, Trial
from fdfed.training.device import describe
from fdfed.training.fastest import USUAL, lay_out_
from fdfed.training.initialise import initial_network
from fdfed.training.step import layout_of
from fdfed_server.observer import Observer, Several
from fdfed_server.outputs import MODEL

_MODELS: Final = "models"
_TRIAL: Final = "trial.json"
_TAKEN: Final = "shared-rounds"
_EXCHANGED: Final = (
    "steps", "answered", "dropped", "peers_mean", "staleness_mean", "staleness_max",
    "bytes_up", "bytes_down",
)  # fmt: skip


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
        shelf: where trials share their first rounds, where these are the same; None trains every
            one.
    """
    if (folder / RESULT).exists():
        return
    device = device or torch.device("cpu")
    header = {key: getattr(trial, key) for key in ("group", "method", "config")}
    name = trial.name
    write_text(folder / _TRIAL, json.dumps(header | {"plan": trial.plan.model_dump(mode="json")}))
    sites = _open(trial, data, progress)
    if any(site.phantoms for site in sites.values()):
        trial = replace(trial, plan=trial.plan.model_copy(update={"phantoms": True}))
    if trial.method == ALGORITHM_1:
        result = result_of(
            trial, train_algorithm_1(trial.plan, sites, folder / "run" / "state", device=device)
        )
    elif trial.trainer in TRAINER_NAMES:
        result = _trained(folder, trial, sites, device)
    else:
        result = _simulated(
            folder, trial, sites, device, shelf=shelf, progress=progress or Progress()
        )
    if trial.opens_test:
        result = replace(
            result, images=_test_images(folder, trial, sites, data, result, device=device)
        )
        if result.best_round is not None:
            common = final_network(folder, trial.plan)
            result = replace(result, spectral_norms=spectral_norms(common))
    result = replace(result, name=name, device=describe(device))
    write_text(folder / RESULT, json.dumps(asdict(result)))
    # States of every trial would fill a disk; the curves are what is kept, and tested models, which
    # figures are drawn with.
    for part in ("state",) if trial.opens_test else ("state", _MODELS):
        shutil.rmtree(folder / "run" / part, ignore_errors=True)


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
    return result_of(trial, trained.history)


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
    one; without a site, the common one.

    Raises:
        InvalidInput: if the trial has no model, as one of which the result alone was copied.
    """
    own, common = (folder / "run" / path for path in (f"{_MODELS}/{site}.safetensors", MODEL))
    path = own if own.exists() else common
    if not path.exists():
        raise InvalidInput(
            f"the trial in {folder} has a result and lacks its {path.name}, as where results were "
            "copied; remove that folder and start the study again, which trains it anew"
        )
    network = initial_network(plan)
    network.load_state_dict(load_file(path))
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
    if shelf is not None and trial.shelf is not None:
        place = shelf / trial.shelf
        taken = take_phase_1(place, state, plan)
        if taken:
            write_text(mark, str(taken))
        sharing = _Sharing(plan, state, place)
        progress = replace(progress, observer=Several([sharing, progress.observer]))
    with torch.device("meta"):
        cotangents = CotangentLog(layout_of(initial_network(plan)))
    progress = replace(progress, watch_exchange=lambda _, exchange: cotangents.watch(exchange))
    if trial.trainer == SHAM:
        sham = Sham(plan.sites, seed=plan.seed, folder=folder / "run" / "state" / SHAM)
        progress = replace(progress, watch_exchange=sham.around)
    try:
        if completed_rounds(folder) < trial.joins_after:
            before = BeforeJoining(trial, folder / "run", shelf)
            if before.take():
                write_text(mark, str(trial.joins_after))
            else:
                before.train(sites, device, progress)
        results = simulate_sites(plan, sites, out=folder / "run", device=device, progress=progress)
    except QuorumNotMet as err:
        return result_of(trial, (), failure=str(err))
    taps = diagnose(plan, sites, folder / "run") if trial.diagnosed else {}
    taken = int(mark.read_text()) if mark.exists() else 0
    found = result_of(trial, results.rounds, taps=taps, shared_rounds=taken)
    exchange = {name: getattr(results.exchange, name) for name in _EXCHANGED}
    return replace(
        found,
        best_round=results.model_round,
        bytes=asdict(results.bytes),
        exchange=exchange if results.exchange.steps else {},
        cotangents=cotangents.summary(),
    )


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

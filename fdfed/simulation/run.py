"""A federation in one process: the objects of the deployment, wired without a network."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch

from fdfed.config import RunPlan
from fdfed.data import SiteData, open_planned, pool_sites, write_planned_phantoms
from fdfed.errors import DataError, FdfedError, InvalidInput
from fdfed.evaluation.aggregates import ImageScore, aggregate
from fdfed.evaluation.case_pictures import CaseView
from fdfed.evaluation.report import write_report
from fdfed.evaluation.results import RunResults, SiteResult
from fdfed.evaluation.results_files import (
    write_images_csv,
    write_results,
    write_rounds_csv,
)
from fdfed.evaluation.scoring import scores_of
from fdfed.exchange import Exchange
from fdfed.privacy import Signer
from fdfed.simulation.behaviour import HONEST, Behaviour
from fdfed.simulation.grid import Fault, InProcessGrid
from fdfed.training.initialise import initial_network
from fdfed.training.model_file import save_model
from fdfed.training.sharing import local_names, shared_names
from fdfed.training.site_state import SiteStore
from fdfed_client.app import build_client_app
from fdfed_client.joining import (
    IMAGES,
    JoiningAnswer,
    answer_for,
    check_comparable,
    training_alone,
    write_images,
)
from fdfed_client.local_model import PrivacyAtSite
from fdfed_client.local_results import case_views, image_rows
from fdfed_client.masking import Masking
from fdfed_client.site import Site
from fdfed_server.hub import ExchangeHub
from fdfed_server.in_process import InProcessExchange
from fdfed_server.observer import Observer
from fdfed_server.outputs import model_header, results_of, write_common_model
from fdfed_server.rounds import RoundLoop, RunOutcome
from fdfed_server.run_state import resume
from fdfed_server.strategy import Strategy

POOLED: Final = "pooled"
_MODELS_OF_SITES: Final = ("local", "fedbn")
"""Strategies that leave a model of every site, also with a network of which they keep nothing."""
_POLL_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a simulation reports; every entry may be left out."""

    observer: Observer = field(default_factory=Observer)
    on_step: Callable[[str, int, int, int], None] | None = None
    """Told (site, server_round, steps done, steps of the round)."""
    on_load: Callable[[str, int, int], None] | None = None
    """Told (site, images read, images of the site)."""
    watch_exchange: Callable[[str, Exchange], Exchange] = lambda _, exchange: exchange
    """Given a site and its exchange of a round, goes around it, outside its blinding."""


def simulate(
    plan: RunPlan,
    *,
    data: Path | None,
    out: Path,
    device: torch.device | None = None,
    progress: Progress | None = None,
    faults: Mapping[str, Fault] | None = None,
    local_baseline: bool = False,
) -> RunResults:
    """Runs the plan's sites in one process and writes results, model, tables and report to `out`.

    A run that was interrupted goes on after its last complete round when it is started again with
    the same plan and folder.

    Args:
        data: folder with one folder per site; None makes phantoms of the named sites.
        faults: by site, for tests: which messages meet a dead node.
        local_baseline: whether each site then trains a model of its own for as many steps, and is
            told whether joining helped it (`fdfed.evaluation.joining`).

    Raises:
        DataError: with all findings of a site, before any training.
        InvalidInput: if `out` belongs to another run, or nobody joins in it and a local baseline
            was asked for.
        PrivacyBudgetExceeded: if a site's privacy budget ended the training; the results of the
            rounds before are written.
    """
    _check_plan(plan)
    if local_baseline:
        check_comparable(plan)
    opened = open_sites(plan, data or _phantoms(plan, out), progress=progress)
    plan = plan.model_copy(update={"phantoms": _are_phantoms(opened)})
    return simulate_sites(
        plan,
        opened,
        out=out,
        device=device,
        progress=progress,
        faults=faults,
        local_baseline=local_baseline,
    )


def simulate_sites(
    plan: RunPlan,
    sites: Mapping[str, SiteData],
    *,
    out: Path,
    device: torch.device | None = None,
    progress: Progress | None = None,
    faults: Mapping[str, Fault] | None = None,
    local_baseline: bool = False,
    behaviours: Mapping[str, Behaviour] | None = None,
    report: bool = True,
) -> RunResults:
    """`simulate` for images that are already open: `sites` holds those of each site of the plan.

    Args:
        behaviours: of the sites that do otherwise than they should.
        report: whether `report.html` is drawn, which takes longer than a small run.
    """
    _check_plan(plan)
    device = device or torch.device("cpu")
    runner = _Runner(plan, out, sites, device, progress or Progress(), behaviours=behaviours or {})
    outcome = runner.run(faults or {})
    results = runner.results(outcome)
    answers = runner.compare(outcome) if local_baseline else {}
    results = replace(results, joining={name: found.joining for name, found in answers.items()})
    runner.write(outcome, results, answers, report=report)
    if outcome.stopped is not None:
        raise outcome.stopped
    return results


def open_sites(
    plan: RunPlan, data: Path, *, progress: Progress | None = None
) -> dict[str, SiteData]:
    """The images of the plan's sites, each in its folder below `data`, as the plan wants them.

    Raises:
        DataError: with all findings of a site.
    """
    return {site: _open(plan, data, site, progress or Progress()) for site in plan.sites}


def _check_plan(plan: RunPlan) -> None:
    """Finds what is wrong with the plan before images are read, which may take long.

    Raises:
        InvalidInput: if there is no site, or network or strategy cannot be made.
    """
    if not plan.sites:
        raise InvalidInput("a simulation needs at least one site; name them with --sites a,b")
    if plan.strategy == "pooled" and POOLED in plan.sites:
        raise InvalidInput(
            f"a site is called {POOLED}, as strategy = pooled calls all images; rename its folder"
        )
    with torch.device("meta"):
        shared_names(initial_network(plan), plan.strategy)


def _are_phantoms(opened: Mapping[str, SiteData]) -> bool:
    kinds = {site.phantoms for site in opened.values()}
    if len(kinds) > 1:
        mixed = ", ".join(name for name, site in opened.items() if site.phantoms)
        raise DataError(
            f"{mixed} hold phantoms and the other sites do not; a run is on phantoms or on images"
        )
    return kinds == {True}


def _open(plan: RunPlan, data: Path, site: str, progress: Progress) -> SiteData:
    told = progress.on_load
    return open_planned(
        plan,
        site,
        data,
        progress=None if told is None else lambda done, total: told(site, done, total),
    )


def _phantoms(plan: RunPlan, out: Path) -> Path:
    # First: another run's folder keeps its own phantoms.
    resume(_run_folder(out), _federated(plan.model_copy(update={"phantoms": True})))
    folder = out / "phantoms"
    for site in plan.sites:
        write_planned_phantoms(plan, site, folder)
    return folder


def _run_folder(out: Path) -> Path:
    return out / "state" / "run"


def _federated(plan: RunPlan) -> RunPlan:
    """The plan that is really run: pooled training is a federation of one site that holds all
    images and makes the steps of all sites."""
    if plan.strategy != "pooled":
        return plan
    steps = plan.steps_per_round * len(plan.sites)
    return plan.model_copy(update={"sites": (POOLED,), "steps_per_round": steps, "quorum": None})


class _Stopped(FdfedError):
    """The simulation ends; a site's training that is under way is of no use any more."""


class _Runner:
    """One simulation: its sites, its coordinator, and what is made of their outcome."""

    def __init__(
        self,
        plan: RunPlan,
        out: Path,
        data: Mapping[str, SiteData],
        device: torch.device,
        progress: Progress,
        *,
        behaviours: Mapping[str, Behaviour],
    ) -> None:
        self._behaviours = behaviours
        self._plan = plan
        self._out = out
        self._data = data
        self._device = device
        self._progress = progress
        self._stopping = threading.Event()
        self._run_plan = _federated(plan)
        self._strategy = Strategy(self._run_plan)
        self._hub = ExchangeHub(self._strategy.cross_site_terms)
        self._signers = Signer.circle(self._run_plan.sites)
        self._sites = {name: self._site(name) for name in self._run_plan.sites}

    def _images(self, name: str) -> SiteData:
        return pool_sites(list(self._data.values())) if name == POOLED else self._data[name]

    def _site(self, name: str) -> Site:
        images = self._images(name)
        return Site(
            name,
            lambda _: images,
            SiteStore(self._out / "state" / "sites" / name),
            device=self._device,
            privacy=PrivacyAtSite(ledger=self._out / "state" / "privacy" / f"{name}.json"),
            open_exchange=lambda plan: InProcessExchange(
                self._hub,
                name,
                max_staleness=plan.exchange.max_staleness,
                delay_steps=plan.exchange.delay_steps,
            ),
            masking=Masking(
                lambda: self._signers[name], self._out / "state" / "masking" / name, min_sites=2
            ),
            on_step=lambda *step: self._step_done(name, *step),
            watch_exchange=lambda exchange: self._progress.watch_exchange(name, exchange),
        )

    def _behaviour(self, name: str) -> Behaviour:
        return self._behaviours.get(name, HONEST)

    def _step_done(self, name: str, server_round: int, done: int, steps: int) -> None:
        if self._stopping.is_set():
            raise _Stopped(f"{name} was stopped in round {server_round}")
        if self._progress.on_step is not None:
            self._progress.on_step(name, server_round, done, steps)

    def run(self, faults: Mapping[str, Fault]) -> RunOutcome:
        folder = _run_folder(self._out)
        state = resume(folder, self._run_plan)
        if state is None:
            # Equal plans are equal runs here, so a plan's digest can name its run.
            state = self._strategy.initial_state(self._run_plan.digest[:32])
        apps = {
            name: self._behaviour(name).around(build_client_app(site))
            for name, site in self._sites.items()
        }
        with self._open(InProcessGrid(apps, faults=faults)) as grid:
            loop = RoundLoop(
                self._strategy,
                self._hub,
                folder=folder,
                observer=self._progress.observer,
                poll_seconds=_POLL_SECONDS,
            )
            return loop.run(grid, state)

    @contextlib.contextmanager
    def _open(self, grid: InProcessGrid) -> Iterator[InProcessGrid]:
        try:
            yield grid
        finally:
            # An interrupted run must not wait until its sites have trained a whole round. The hub
            # before the grid: it wakes whoever waits for a peer.
            self._stopping.set()
            self._hub.close()
            grid.close()

    def results(self, outcome: RunOutcome) -> RunResults:
        results = results_of(outcome, transport="in one process")
        results = replace(results, config=self._plan.model_dump(mode="json"))
        if self._plan.strategy == "pooled":
            return replace(results, sites=self._pooled_results())
        return results

    def _pooled_results(self) -> dict[str, SiteResult]:
        results = {}
        for name, data in self._data.items():
            scores, counts = self._scores(name), data.counts
            dice, iou = (
                aggregate((getattr(s, key) for s in scores), min_count=self._plan.min_count)
                for key in ("dice", "iou")
            )
            results[name] = SiteResult.of(
                dice,
                iou,
                n_train=counts.train,
                n_val=counts.validation,
                n_test=counts.test,
            )
        return results

    def compare(self, outcome: RunOutcome) -> dict[str, JoiningAnswer]:
        """Whether joining helped each site that scored the final model."""
        return {name: self._answer(name, outcome) for name in outcome.test}

    def _answer(self, name: str, outcome: RunOutcome) -> JoiningAnswer:
        site, steps = self._sites[name], self._plan.steps_per_round
        plan, run_id = site.model.local_plan, outcome.state.run_id
        told = self._progress.on_step
        alone = training_alone(
            name,
            plan,
            self._data[name],
            folder=self._out / "state" / "alone" / name,
            run_id=run_id,
            device=self._device,
        )
        return answer_for(
            name,
            plan,
            self._data[name],
            site.network,
            alone,
            on_step=lambda number, done: told(name, number, done, steps) if told else None,
        )

    def write(
        self,
        outcome: RunOutcome,
        results: RunResults,
        answers: Mapping[str, JoiningAnswer],
        *,
        report: bool,
    ) -> None:
        """The coordinator's files, and what only a simulation may add: images and their scores."""
        out = self._out
        write_common_model(out, outcome.state, results)
        write_rounds_csv(out / "rounds.csv", outcome.state.history)
        rows = [row for name in self._data for row in image_rows(name, self._scores(name))]
        write_results(out / "results.json", results, per_image=rows)
        write_images_csv(out / "images.csv", rows)
        for name, found in answers.items():
            save_model(out / "kept" / f"{name}.safetensors", found.kept.state_dict(), found.header)
        if answers:
            write_images(out / IMAGES, {name: found.images for name, found in answers.items()})
        if report:
            cases = [view for name in self._data for view in self._views(name)]
            write_report(out / "report.html", results, cases=cases, per_image=rows)
        if self._sites_have_models:
            # A site that missed the test holds other weights than its best ones.
            for name in outcome.test:
                header = model_header(outcome.state, results, site=name)
                path = out / "models" / f"{name}.safetensors"
                save_model(path, self._sites[name].network.state_dict(), header)

    @property
    def _sites_have_models(self) -> bool:
        strategy = self._plan.strategy
        if strategy in _MODELS_OF_SITES:
            return True
        return any(local_names(site.network, strategy) for site in self._sites.values())

    def _scores(self, name: str) -> tuple[ImageScore, ...]:
        """The test scores of one site's images under the model that this site would use."""
        if name in self._sites:
            return self._sites[name].image_scores
        pooled = self._sites[POOLED].model
        batches = self._data[name].evaluation_batches("test")
        return scores_of(pooled.network, batches, precision=pooled.local_plan.precision)

    def _views(self, name: str) -> list[CaseView]:
        scores = self._scores(name)
        if not scores:
            return []
        site = self._sites.get(name) or self._sites[POOLED]
        found = site.predict("test", images=self._data[name])
        return case_views(name, found, scores, site.network)

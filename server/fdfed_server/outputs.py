"""The files that a finished run leaves with the coordinator: a model, numbers, a report.

Everything here is an aggregate. Per-image rows and pictures exist only where the images are: at a
site, and in a simulation, which adds them itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from fdfed.config import RunPlan
from fdfed.evaluation.results import (
    ExchangeResult,
    PrivacyResult,
    RunResults,
    SitePrivacy,
    SiteResult,
    Traffic,
    library_versions,
)
from fdfed.evaluation.results_files import write_results, write_rounds_csv
from fdfed.training.initialise import initial_network
from fdfed.training.model_file import ModelHeader, SiteDice, save_model
from fdfed.training.sharing import local_names, put_tensors_
from fdfed.wire import EvaluateResult, Prepared
from fdfed_server.rounds import RunOutcome
from fdfed_server.run_state import UNKNOWN_SCORE, RunState

MODEL = "model.safetensors"


def results_of(
    outcome: RunOutcome, *, transport: str, sealed: bool = False, blinded: bool = False
) -> RunResults:
    """The run in the form of `results.json`.

    Args:
        transport: how messages travelled, such as `mTLS`.
        sealed: whether prototypes were encrypted from agent to hub; a simulation has no wire.
        blinded: whether the secret that blinded them was kept from the coordinator.
    """
    state = outcome.state
    plan = state.plan
    taps = tuple(state.history[-1].alpha) if state.history else ()
    return RunResults(
        sites=site_results(outcome.sites, outcome.test),
        rounds=state.history,
        alpha=dict(zip(taps, state.model.alpha.tolist(), strict=True)),
        exchange=ExchangeResult.of(state.exchanges),
        bytes=Traffic(
            up=sum(record.bytes.up for record in state.history),
            down=sum(record.bytes.down for record in state.history),
        ),
        seconds={"total": state.seconds},
        privacy=privacy_result(
            outcome, transport=transport, sealed=sealed, blinded=blinded and plan.swaps_batches
        ),
        config=plan.model_dump(mode="json"),
        versions=library_versions(),
        phantoms=plan.phantoms,
        best_round=state.best.server_round,
        warm_start_round=state.warm_start_round,
        model_round=None if plan.strategy == "local" else state.best.server_round,
        final_model=None if plan.strategy == "local" else MODEL,
    )


def privacy_result(
    outcome: RunOutcome, *, transport: str, sealed: bool, blinded: bool
) -> PrivacyResult:
    """What protected the run; with differential privacy, what each site said last."""
    plan, spent = outcome.state.plan, dict[str, SitePrivacy]()
    for record in outcome.state.history:
        spent |= {site: e.privacy for site, e in record.sites.items() if e.privacy is not None}
    spent |= {site: r.privacy for site, r in outcome.test.items() if r.privacy is not None}
    private = plan.privacy is not None and bool(spent)
    return PrivacyResult(
        differential_privacy=private,
        epsilon=max(entry.epsilon for entry in spent.values()) if private else None,
        delta=max(entry.delta for entry in spent.values()) if private else None,
        sites=spent if private else {},
        weights_protected=plan.privacy is not None and plan.privacy.weights != "unprotected",
        stopped=None if outcome.stopped is None else str(outcome.stopped),
        secure_aggregation=plan.aggregation == "masked",
        transport=transport,
        sealed=sealed,
        blinded=blinded,
        min_count=plan.min_count,
    )


def site_results(
    sites: Mapping[str, Prepared], test: Mapping[str, EvaluateResult]
) -> dict[str, SiteResult]:
    """Each site's test aggregates; empty where it withheld them or did not answer."""
    results = {}
    for site, prepared in sites.items():
        scores = test.get(site)
        results[site] = SiteResult.of(
            scores.dice if scores else None,
            scores.iou if scores else None,
            n_train=prepared.num_train,
            n_val=prepared.num_validation,
            n_test=prepared.num_test,
        )
    return results


def write_run(folder: Path, outcome: RunOutcome, results: RunResults) -> None:
    """`model.safetensors`, `results.json`, `rounds.csv` and `report.html`, each atomically."""
    from fdfed.evaluation.report import write_report  # noqa: PLC0415  slow to import, and needed at the end of a run alone

    write_common_model(folder, outcome.state, results)
    write_results(folder / "results.json", results)
    write_rounds_csv(folder / "rounds.csv", outcome.state.history)
    write_report(folder / "report.html", results)


def write_common_model(folder: Path, state: RunState, results: RunResults) -> None:
    """`model.safetensors`: the run's best weights; nothing where the sites have no common model."""
    if state.plan.strategy != "local":
        header = model_header(state, results)
        save_weights(folder / MODEL, state.plan, state.best.model.weights, header)


def save_weights(
    path: Path, plan: RunPlan, weights: Mapping[str, NDArray[Any]], header: ModelHeader
) -> None:
    """A model file of the plan's network with `weights`; tensors that stay at the sites keep
    their initial values."""
    network = initial_network(plan)
    put_tensors_(network, weights)
    save_model(path, network.state_dict(), header)


def model_header(state: RunState, results: RunResults, *, site: str | None = None) -> ModelHeader:
    """What `fdfed predict` needs to use the run's model, and the aggregates that vouch for it.

    Args:
        site: whose own model it is; None for the common one.
    """
    plan = state.plan
    alpha = dict(zip(results.alpha, state.best.model.alpha.tolist(), strict=True))
    with torch.device("meta"):
        network = initial_network(plan)
    # Weights that each site completed with tensors of its own were not scored as they are here.
    common = not local_names(network, plan.strategy)
    made_in = state.best.server_round
    if site is not None and plan.strategy == "local":
        made_in, _ = state.site_best.get(site, (0, UNKNOWN_SCORE))
    return ModelHeader.of(
        plan,
        network.tap_names,
        alpha=alpha,
        site=site,
        round=made_in or None,
        dice={
            name: SiteDice(n=entry.n_scored, mean=entry.dice, sd=entry.dice_sd or 0.0)
            for name, entry in results.sites.items()
            if (common if site is None else name == site)
            and entry.dice is not None
            and entry.n_scored
        },
    )

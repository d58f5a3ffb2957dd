"""The site's own account of a run: its curves, its test images one by one, its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fdfed.evaluation.report import write_report
from fdfed.evaluation.results import (
    PrivacyResult,
    RoundRecord,
    RunResults,
    SiteResult,
    SiteRound,
    library_versions,
)
from fdfed.evaluation.results_files import write_images_csv, write_results, write_rounds_csv
from fdfed.wire import EvaluateResult, TrainResult
from fdfed_client.local_results import case_views, image_rows
from fdfed_client.site import Site


class LocalReport:
    """Gathers a site's results and writes `FOLDER/<run>/` when its test images have been scored.

    What it holds of rounds is in memory: after a restart of the agent the curves begin there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run_id = ""
        self._rounds: dict[int, RoundRecord] = {}

    def add(self, site: Site, result: TrainResult | EvaluateResult) -> None:
        """Takes a result as the site is about to send it."""
        if result.run_id != self._run_id:
            self._run_id, self._rounds = result.run_id, {}
        if isinstance(result, TrainResult):
            self._rounds[result.server_round] = _trained(site, result)
        elif result.part == "validation":
            self._score(site, result)
        else:
            self._write(site, result)

    def _score(self, site: Site, result: EvaluateResult) -> None:
        record = self._rounds.get(result.server_round)
        if record is None or result.dice is None or result.iou is None:
            return
        entry = replace(record.sites[site.name], val_dice=result.dice.mean, val_iou=result.iou.mean)
        self._rounds[result.server_round] = replace(record, sites={site.name: entry})

    def _write(self, site: Site, result: EvaluateResult) -> None:
        folder = self._folder / result.run_id
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        results = self._results(site, result)
        rows = image_rows(site.name, site.image_scores)
        views = case_views(site.name, site.predict("test"), site.image_scores)
        write_results(folder / "results.json", results, per_image=rows)
        write_rounds_csv(folder / "rounds.csv", results.rounds)
        write_images_csv(folder / "images.csv", rows)
        write_report(folder / "report.html", results, cases=views, per_image=rows)

    def _results(self, site: Site, result: EvaluateResult) -> RunResults:
        counts, plan = site.counts, site.plan
        rounds = tuple(self._rounds[number] for number in sorted(self._rounds))
        return RunResults(
            sites={
                site.name: SiteResult.of(
                    result.dice,
                    result.iou,
                    n_train=counts.train,
                    n_val=counts.validation,
                    n_test=counts.test,
                )
            },
            rounds=rounds,
            alpha=rounds[-1].alpha if rounds else {},
            privacy=_privacy(site, result),
            config=plan.model_dump(mode="json"),
            versions=library_versions(),
            phantoms=plan.phantoms,
            model_round=result.server_round or None,
        )


def _privacy(site: Site, result: EvaluateResult) -> PrivacyResult:
    spent, plan = result.privacy, site.plan
    return PrivacyResult(
        transport="TLS",
        secure_aggregation=plan.aggregation == "masked",
        min_count=max(site.min_count, plan.min_count),
        differential_privacy=spent is not None,
        epsilon=None if spent is None else spent.epsilon,
        delta=None if spent is None else spent.delta,
        sites={} if spent is None else {site.name: spent},
        weights_protected=plan.privacy is not None and plan.privacy.weights != "unprotected",
        stopped=None if site.budget_spent is None else str(site.budget_spent),
    )


def _trained(site: Site, result: TrainResult) -> RoundRecord:
    known = result.fd[~np.isnan(result.fd)]
    entry = SiteRound(
        loss_seg=result.loss_seg,
        loss_fd=float(known.mean()) if len(known) else None,
        num_examples=result.num_examples,
        seconds=result.seconds,
    )
    return RoundRecord(
        round=result.server_round,
        phase=site.plan.phase(result.server_round),
        attempt=result.attempt,
        sites={site.name: entry},
        alpha=dict(zip(site.network.tap_names, site.alpha, strict=True)),
        seconds=result.seconds,
    )

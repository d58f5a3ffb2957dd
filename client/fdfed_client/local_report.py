"""The site's own account of a run: its curves, its test images one by one, its report."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fdfed.evaluation.results import (
    ExchangeResult,
    ImageRow,
    PrivacyResult,
    RoundRecord,
    RunResults,
    SiteResult,
    SiteRound,
    TapLoss,
    Traffic,
    library_versions,
)
from fdfed.evaluation.results_files import write_images_csv, write_results, write_rounds_csv
from fdfed.exchange import ExchangeStats
from fdfed.privacy import ContributionLayout
from fdfed.wire import EvaluateResult, TrainResult
from fdfed_client.joining import JoiningAnswer
from fdfed_client.local_results import case_views, image_rows
from fdfed_client.site import Site

if TYPE_CHECKING:
    from fdfed.evaluation.case_pictures import CaseView


@dataclass(frozen=True, slots=True)
class _Written:
    """What the last report was made of."""

    run_id: str
    results: RunResults
    rows: list[ImageRow]
    cases: list[CaseView]


class LocalReport:
    """Gathers a site's results and writes `FOLDER/<run>/` when its test images have been scored.

    What it holds of rounds is in memory: after a restart of the agent the curves begin there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run_id = ""
        self._rounds: dict[int, RoundRecord] = {}
        self._exchanged: dict[int, ExchangeStats] = {}
        self._weights = 0
        self._written: _Written | None = None
        self._writing = threading.Lock()

    def add(self, site: Site, result: TrainResult | EvaluateResult) -> None:
        """Takes a result as the site is about to send it."""
        if result.run_id != self._run_id:
            self._run_id, self._rounds, self._exchanged = result.run_id, {}, {}
        if isinstance(result, TrainResult):
            state = site.network.state_dict()
            self._weights = sum(state[name].nbytes for name in result.weights)
            self._rounds[result.server_round] = _trained(site, result, weights=self._weights)
            self._exchanged[result.server_round] = result.exchange
        elif result.part == "validation":
            self._score(site, result)
        else:
            self._write(site, result)

    def joined(self, site: str, run_id: str, found: JoiningAnswer) -> None:
        """Writes the report anew with the answer whether joining helped, and the model to keep.
        Safe to call from another thread; of no effect for any but the last run."""
        with self._writing:
            written = self._written
            if written is None or written.run_id != run_id:
                return
            results = replace(written.results, joining={site: found.joining})
            found.write(self._folder / run_id, site=site)
            self._put(replace(written, results=results))

    def _score(self, site: Site, result: EvaluateResult) -> None:
        record = self._rounds.get(result.server_round)
        if record is None:
            return
        # The aggregate came to be scored.
        down = record.bytes.down + self._weights
        record = replace(record, bytes=replace(record.bytes, down=down))
        if result.dice is not None and result.iou is not None:
            dice, iou = result.dice.mean, result.iou.mean
            entry = replace(record.sites[site.name], val_dice=dice, val_iou=iou)
            record = replace(record, sites={site.name: entry})
        self._rounds[result.server_round] = record

    def _write(self, site: Site, result: EvaluateResult) -> None:
        scores = site.image_scores
        with self._writing:
            self._written = _Written(
                run_id=result.run_id,
                results=self._results(site, result),
                rows=image_rows(site.name, scores),
                cases=case_views(site.name, site.predict("test"), scores, site.network),
            )
            self._put(self._written)

    def _put(self, written: _Written) -> None:
        from fdfed.evaluation.report import write_report  # noqa: PLC0415  slow to import, and needed at the end of a run alone

        folder = self._folder / written.run_id
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        results, rows = written.results, written.rows
        write_results(folder / "results.json", results, per_image=rows)
        write_rounds_csv(folder / "rounds.csv", results.rounds)
        write_images_csv(folder / "images.csv", rows)
        write_report(folder / "report.html", results, cases=written.cases, per_image=rows)

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
            exchange=ExchangeResult.of(list(self._exchanged.values())),
            bytes=Traffic(
                up=sum(record.bytes.up for record in rounds),
                down=sum(record.bytes.down for record in rounds),
            ),
            seconds={"training here": sum(record.seconds or 0.0 for record in rounds)},
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
        sealed=plan.swaps_batches,
        blinded=plan.swaps_batches and plan.exchange.blinding == "on",
        min_count=max(site.min_count, plan.min_count),
        differential_privacy=spent is not None,
        epsilon=None if spent is None else spent.epsilon,
        delta=None if spent is None else spent.delta,
        sites={} if spent is None else {site.name: spent},
        weights_protected=plan.privacy is not None and plan.privacy.weights != "unprotected",
        stopped=None if site.budget_spent is None else str(site.budget_spent),
    )


def _trained(site: Site, result: TrainResult, *, weights: int) -> RoundRecord:
    """The round as this site saw it; the weights that it was sent took so many bytes."""
    known = result.fd[~np.isnan(result.fd)]
    entry = SiteRound(
        loss_seg=result.loss_seg,
        loss_fd=float(known.mean()) if len(known) else None,
        num_examples=result.num_examples,
        seconds=result.seconds,
    )
    taps = site.network.tap_names
    up = sum(value.nbytes for value in result.weights.values())
    if site.plan.aggregation == "masked":
        # Under masks every number travels as one of 64 bits.
        up = 8 * ContributionLayout.of(result.weights, taps=len(taps)).size
    return RoundRecord(
        round=result.server_round,
        phase=site.plan.phase(result.server_round),
        attempt=result.attempt,
        sites={site.name: entry},
        alpha=dict(zip(taps, site.alpha, strict=True)),
        losses={
            tap: TapLoss(fd=_or_none(fd), exch=_or_none(exch))
            for tap, fd, exch in zip(taps, result.fd, result.exch, strict=True)
        },
        seconds=result.seconds,
        bytes=Traffic(up=up + result.exchange.bytes_up, down=weights + result.exchange.bytes_down),
    )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

"""The run as log events: one line an event, with its fields for machines."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from fdfed.config import RunPlan
from fdfed.evaluation.results import RoundRecord
from fdfed.wire import EvaluateResult, Prepared
from fdfed_server.observer import Observer

log = logging.getLogger(__name__)


class EventLog(Observer):
    """Writes every event of the round loop to the log."""

    def run_started(self, plan: RunPlan, completed_rounds: int) -> None:
        images = "built-in PHANTOMS" if plan.phantoms else "the sites' images"
        log.info(
            "run of %d rounds, strategy %s, loss %s, on %s; %d rounds are complete",
            plan.rounds,
            plan.strategy,
            plan.effective_loss,
            images,
            completed_rounds,
        )

    def waiting_for(self, sites: Sequence[str]) -> None:
        if sites:
            log.info("waiting for %s", ", ".join(sites))

    def site_prepared(self, prepared: Prepared) -> None:
        log.info(
            "%s is ready: %d training, %d validation, %d test images",
            prepared.site,
            prepared.num_train,
            prepared.num_validation,
            prepared.num_test,
            extra={"site": prepared.site},
        )

    def round_started(self, server_round: int, phase: int, attempt: int) -> None:
        extra = {"server_round": server_round, "phase": phase, "attempt": attempt}
        log.info("round %d begins (phase %d)", server_round, phase, extra=extra)

    def site_answered(self, site: str, server_round: int, failure: str) -> None:
        extra = {"site": site, "server_round": server_round}
        if failure:
            log.warning("round %d: %s: %s", server_round, site, failure, extra=extra)

    def attempt_failed(self, server_round: int, attempt: int, reason: str) -> None:
        log.warning("%s", reason, extra={"server_round": server_round, "attempt": attempt})

    def round_finished(self, record: RoundRecord) -> None:
        for site, entry in record.sites.items():
            if entry.refused is not None:
                log.warning("round %d: %s was left out: %s", record.round, site, entry.refused)
            if entry.why_bounded is not None:
                log.warning("round %d: %s %s", record.round, site, entry.why_bounded)
        score = record.mean_val_dice
        log.info(
            "round %d is complete: validation Dice %s",
            record.round,
            "not known" if score is None else f"{score:.3f}",
            extra={"server_round": record.round, "seconds": record.seconds},
        )

    def test_finished(self, results: Mapping[str, EvaluateResult]) -> None:
        log.info("%d site(s) scored the final model on their test images", len(results))

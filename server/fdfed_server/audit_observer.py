"""The coordinator's own audit log: which plan was run, who took part, and whom a round refused."""

from __future__ import annotations

from collections.abc import Mapping

from fdfed.audit import AuditLog
from fdfed.config import RunPlan
from fdfed.evaluation.results import RoundRecord
from fdfed.wire import EvaluateResult, Prepared
from fdfed_server.observer import Observer


class AuditObserver(Observer):
    """Writes the run's events into a chained, signed log; what sites say is not copied into it."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def run_started(self, plan: RunPlan, completed_rounds: int) -> None:
        self._log.append("out", "plan", sha256=plan.digest, round=completed_rounds)

    def site_prepared(self, prepared: Prepared) -> None:
        self._log.append("in", "prepared", site=prepared.site, images=prepared.num_train)

    def round_started(self, server_round: int, phase: int, attempt: int) -> None:
        self._log.append("out", "train", round=server_round, phase=phase, attempt=attempt)

    def site_answered(self, site: str, server_round: int, failure: str) -> None:
        decision = "refused" if failure else "allowed"
        self._log.append("in", "answer", site=site, round=server_round, decision=decision)

    def attempt_failed(self, server_round: int, attempt: int, reason: str) -> None:
        self._log.append("here", "attempt-failed", round=server_round, attempt=attempt)

    def round_finished(self, record: RoundRecord) -> None:
        self._log.append(
            "here",
            "round",
            round=record.round,
            attempt=record.attempt,
            sites=",".join(name for name, site in record.sites.items() if not site.refused),
        )

    def test_finished(self, results: Mapping[str, EvaluateResult]) -> None:
        self._log.append("in", "evaluated", sites=",".join(results))

"""What the round loop tells whoever watches it: a progress bar, a log, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fdfed.config import RunPlan
from fdfed.evaluation.results import RoundRecord
from fdfed.wire import EvaluateResult, Prepared


class Observer:
    """Override what is of interest; every method does nothing by default. Called from the thread
    of the round loop, so a slow observer slows the run."""

    def run_started(self, plan: RunPlan, completed_rounds: int) -> None:
        """The run begins, or goes on after `completed_rounds` rounds."""

    def waiting_for(self, sites: Sequence[str]) -> None:
        """These sites are not online; called again whenever the set changes."""

    def site_prepared(self, prepared: Prepared) -> None:
        """A site has the plan and has counted its images."""

    def round_started(self, server_round: int, phase: int, attempt: int) -> None:
        """The instructions of a round are about to leave."""

    def site_answered(self, site: str, server_round: int, failure: str) -> None:
        """A site's update arrived and was read; or there is none, or no score of that round's
        model, and `failure` says why."""

    def updates_aggregated(self, server_round: int, seconds: float) -> None:
        """The attempt has its quorum; `seconds` is the time to check and add the updates, without
        the waiting for them."""

    def attempt_failed(self, server_round: int, attempt: int, reason: str) -> None:
        """A round did not reach its quorum and is repeated, if attempts are left."""

    def round_finished(self, record: RoundRecord) -> None:
        """A round is complete and on disk."""

    def test_finished(self, results: Mapping[str, EvaluateResult]) -> None:
        """The final model has been scored at the sites."""


class Several(Observer):
    """Tells several observers, in their order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def run_started(self, plan: RunPlan, completed_rounds: int) -> None:
        for observer in self._observers:
            observer.run_started(plan, completed_rounds)

    def waiting_for(self, sites: Sequence[str]) -> None:
        for observer in self._observers:
            observer.waiting_for(sites)

    def site_prepared(self, prepared: Prepared) -> None:
        for observer in self._observers:
            observer.site_prepared(prepared)

    def round_started(self, server_round: int, phase: int, attempt: int) -> None:
        for observer in self._observers:
            observer.round_started(server_round, phase, attempt)

    def site_answered(self, site: str, server_round: int, failure: str) -> None:
        for observer in self._observers:
            observer.site_answered(site, server_round, failure)

    def updates_aggregated(self, server_round: int, seconds: float) -> None:
        for observer in self._observers:
            observer.updates_aggregated(server_round, seconds)

    def attempt_failed(self, server_round: int, attempt: int, reason: str) -> None:
        for observer in self._observers:
            observer.attempt_failed(server_round, attempt, reason)

    def round_finished(self, record: RoundRecord) -> None:
        for observer in self._observers:
            observer.round_finished(record)

    def test_finished(self, results: Mapping[str, EvaluateResult]) -> None:
        for observer in self._observers:
            observer.test_finished(results)

"""The rounds of a run as Prometheus metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from fdfed import __version__
from fdfed.config import RunPlan
from fdfed.evaluation.results import RoundRecord, SiteRound, is_known
from fdfed.wire import EvaluateResult, Prepared
from fdfed_server.observer import Observer

_SECONDS: Final = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class RunMetrics(Observer):
    """Follows a run. Labels are the plan's sites and the network's taps: both sets are bounded,
    and nothing of an image, a patient or a file is in any of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"fdfed_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"fdfed_{name}", text, labels, registry=registry)

        self._info = Info("fdfed_run", "What is run.", registry=registry)
        self._completed = gauge("rounds_completed", "Rounds that are complete and on disk.")
        self._planned = gauge("rounds_planned", "Rounds of the plan.")
        self._phase = gauge("phase", "1 while only L_seg is trained, 2 afterwards.")
        self._waiting = gauge("sites_missing", "Sites of the plan that the round loop waits for.")
        self._failed = counter("attempts_failed", "Attempts of a round that missed the quorum.")
        self._checkpoint = gauge(
            "checkpoint_timestamp_seconds", "When the last complete round was on disk, Unix time."
        )
        self._round_seconds = Histogram(
            "fdfed_round_seconds",
            "Wall-clock time of a complete round.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._overhead = gauge(
            "round_overhead_seconds",
            "Time of the last round beyond the training of its slowest site: transfer, waiting, "
            "aggregation, evaluation, saving.",
        )
        self._aggregation = gauge(
            "aggregation_seconds",
            "Time to check and add the updates of the last round, without waiting for them.",
        )
        self._drift = gauge(
            "weights_drift", "How far apart the sites' weights ended in the last round."
        )
        self._bytes = counter(
            "round_bytes",
            "Bytes between coordinator and sites in complete rounds; up leaves the sites.",
            "direction",
        )
        self._dice = gauge("validation_dice", "Unweighted mean over sites of validation Dice.")
        self._alpha = gauge("alpha", "Weight α that the last round was trained with.", "tap")
        self._fd = gauge("discrepancy_loss", "Mean L_fd of the last round (Eq. 1), in nats.", "tap")
        self._exch = gauge(
            "exchange_loss", "Mean cross-site term of the last round (Eq. 4), in nats.", "tap"
        )
        self._pairs = gauge(
            "pair_term",
            "How close two sites' features were in the last round (Eq. 4 of the pair), in nats.",
            "first",
            "second",
            "tap",
        )
        self._examples = gauge("site_training_images", "Training images.", "site")
        self._site_dice = gauge(
            "site_validation_dice", "Mean Dice of the round's model at the site.", "site"
        )
        self._site_seg = gauge("site_segmentation_loss", "Mean L_seg of the last round.", "site")
        self._site_fd = gauge("site_discrepancy_loss", "Mean over taps of L_fd.", "site")
        self._site_drift = gauge(
            "site_weights_drift", "Distance of the site's weights from those it was sent.", "site"
        )
        self._site_seconds = gauge(
            "site_training_seconds", "Time of the site's last training round.", "site"
        )
        self._site_round = gauge("site_last_round", "Last round that holds its update.", "site")
        self._site_failures = counter(
            "site_failures", "Questions to the site that got an error or no answer.", "site"
        )
        self._site_refused = counter(
            "site_updates_refused",
            "Updates left out of a complete round, or missing in it.",
            "site",
        )
        self._budget = gauge(
            "privacy_epsilon_budget", "ε at which a site stops training; none without privacy."
        )
        self._spent = gauge(
            "site_privacy_epsilon", "ε that the site's ledger says is spent.", "site"
        )
        self._test = gauge("site_test_dice", "Mean test Dice of the final model.", "site")

    def run_started(self, plan: RunPlan, completed_rounds: int) -> None:
        self._info.info(
            {
                "version": __version__,
                "strategy": plan.strategy,
                "loss": plan.effective_loss,
                "network": plan.network,
                "plan": plan.digest[:16],
                "phantoms": str(plan.phantoms).lower(),
            }
        )
        self._planned.set(plan.rounds)
        self._completed.set(completed_rounds)
        self._phase.set(plan.phase(min(completed_rounds + 1, plan.rounds)))
        # NaN, not 0, without differential privacy: no ε is claimed then, not even none.
        self._budget.set(plan.privacy.epsilon if plan.privacy else float("nan"))
        for direction in ("up", "down"):
            self._bytes.labels(direction)
        for site in plan.sites:
            # From zero on: an alert on a rise needs the value before it.
            self._site_failures.labels(site)
            self._site_refused.labels(site)

    def waiting_for(self, sites: Sequence[str]) -> None:
        self._waiting.set(len(sites))

    def site_prepared(self, prepared: Prepared) -> None:
        self._examples.labels(prepared.site).set(prepared.num_train)

    def round_started(self, server_round: int, phase: int, attempt: int) -> None:
        self._phase.set(phase)
        self._waiting.set(0)

    def updates_aggregated(self, server_round: int, seconds: float) -> None:
        self._aggregation.set(seconds)

    def attempt_failed(self, server_round: int, attempt: int, reason: str) -> None:
        self._failed.inc()

    def site_answered(self, site: str, server_round: int, failure: str) -> None:
        if failure:
            self._site_failures.labels(site).inc()

    def round_finished(self, record: RoundRecord) -> None:
        self._completed.set(record.round)
        self._checkpoint.set(time.time())
        self._bytes.labels("up").inc(record.bytes.up)
        self._bytes.labels("down").inc(record.bytes.down)
        _set(self._dice, record.mean_val_dice)
        _set(self._drift, record.drift)
        for tap, alpha in record.alpha.items():
            self._alpha.labels(tap).set(alpha)
        for tap, loss in record.losses.items():
            _set(self._fd.labels(tap), loss.fd)
            _set(self._exch.labels(tap), loss.exch)
        for pair, terms in record.pairs.items():
            first, second = pair.split()
            for tap, term in terms.items():
                self._pairs.labels(first, second, tap).set(term)
        for site, entry in record.sites.items():
            self._site(site, record.round, entry)
        if record.seconds is not None:
            self._round_seconds.observe(record.seconds)
            slowest = max((e.seconds or 0.0 for e in record.sites.values()), default=0.0)
            self._overhead.set(max(0.0, record.seconds - slowest))

    def _site(self, site: str, server_round: int, entry: SiteRound) -> None:
        if entry.privacy is not None:
            self._spent.labels(site).set(entry.privacy.epsilon)
        if entry.refused is None:
            self._site_round.labels(site).set(server_round)
        else:
            self._site_refused.labels(site).inc()
        _set(self._site_dice.labels(site), entry.val_dice)
        _set(self._site_seg.labels(site), entry.loss_seg)
        _set(self._site_fd.labels(site), entry.loss_fd)
        _set(self._site_drift.labels(site), entry.drift)
        _set(self._site_seconds.labels(site), entry.seconds)

    def test_finished(self, results: Mapping[str, EvaluateResult]) -> None:
        for site, result in results.items():
            if result.dice is not None:
                self._test.labels(site).set(result.dice.mean)


def _set(gauge: Gauge, value: float | None) -> None:
    """Sets a gauge to a value that was measured. One that was not (withheld by the site, or there
    is none in this phase) becomes NaN: an old value would pass for a new one."""
    gauge.set(value if is_known(value) else float("nan"))

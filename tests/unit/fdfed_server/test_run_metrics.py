"""The coordinator's metrics: what a run told them is what Prometheus reads."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from fdfed.config import RunPlan
from fdfed.evaluation.aggregates import Aggregate
from fdfed.evaluation.results import RoundRecord, SitePrivacy, SiteRound, TapLoss, Traffic
from fdfed.exchange import ExchangeCode, FrameRefused, PrototypeFrame, StepKey, TapLayout
from fdfed.membership.roster import Roster
from fdfed.process.metrics import table
from fdfed.wire import EvaluateResult, Prepared
from fdfed_server.hub import ExchangeHub
from fdfed_server.metrics import HubCollector, RosterCollector, RunMetrics
from fdfed_server.terms import cross_site_terms

PLAN = RunPlan(sites=("tnbc", "monuseg"), rounds=4, phantoms=True)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"fdfed_{name}", labels)


def record(number: int, **sites: SiteRound) -> RoundRecord:
    return RoundRecord(
        round=number,
        phase=2,
        sites=sites,
        alpha={"Enc1": 0.01},
        losses={"Enc1": TapLoss(fd=-0.5, exch=None)},
        pairs={"tnbc monuseg": {"Enc1": -1.5}},
        seconds=10.0,
        bytes=Traffic(up=100, down=300),
        drift=0.25,
    )


def test_a_round_that_ends_is_what_prometheus_reads(registry: CollectorRegistry) -> None:
    metrics = RunMetrics(registry)
    metrics.run_started(PLAN, 1)
    assert value(registry, "rounds_completed") == 1
    assert value(registry, "rounds_planned") == 4
    metrics.round_started(2, 2, 1)
    metrics.updates_aggregated(2, 0.5)
    good = SiteRound(val_dice=0.8, loss_seg=0.4, loss_fd=-1.5, drift=2.0, seconds=6.0)
    metrics.round_finished(record(2, tnbc=good, monuseg=SiteRound(val_dice=0.6, seconds=8.0)))
    assert value(registry, "rounds_completed") == 2
    assert value(registry, "phase") == 2
    assert value(registry, "validation_dice") == pytest.approx(0.7)
    assert value(registry, "site_validation_dice", site="tnbc") == 0.8
    assert value(registry, "site_segmentation_loss", site="tnbc") == 0.4
    assert value(registry, "site_last_round", site="monuseg") == 2
    assert value(registry, "alpha", tap="Enc1") == 0.01
    assert value(registry, "discrepancy_loss", tap="Enc1") == -0.5
    assert value(registry, "pair_term", first="tnbc", second="monuseg", tap="Enc1") == -1.5
    assert value(registry, "round_seconds_count") == 1
    # 10 s in all, of which the slowest site trained 8 s.
    assert value(registry, "round_overhead_seconds") == 2.0
    assert value(registry, "aggregation_seconds") == 0.5
    assert value(registry, "round_bytes_total", direction="down") == 300
    metrics.round_finished(record(3, tnbc=good))
    assert value(registry, "round_bytes_total", direction="up") == 200


def test_a_value_that_a_site_withheld_is_not_the_one_of_the_round_before(
    registry: CollectorRegistry,
) -> None:
    metrics = RunMetrics(registry)
    metrics.run_started(PLAN, 0)
    metrics.round_finished(record(1, tnbc=SiteRound(val_dice=0.8)))
    metrics.round_finished(record(2, tnbc=SiteRound(val_dice=None)))
    found = value(registry, "site_validation_dice", site="tnbc")
    assert found is not None
    assert math.isnan(found)


def test_failures_and_refusals_are_counted_by_site_from_zero(registry: CollectorRegistry) -> None:
    metrics = RunMetrics(registry)
    metrics.run_started(PLAN, 0)
    assert value(registry, "site_failures_total", site="tnbc") == 0
    metrics.site_answered("tnbc", 1, "")
    metrics.site_answered("monuseg", 1, "no reply before the deadline")
    metrics.attempt_failed(1, 1, "quorum")
    metrics.round_finished(record(1, tnbc=SiteRound(), monuseg=SiteRound(refused="late")))
    assert value(registry, "site_failures_total", site="tnbc") == 0
    assert value(registry, "site_failures_total", site="monuseg") == 1
    assert value(registry, "site_updates_refused_total", site="monuseg") == 1
    assert value(registry, "site_last_round", site="monuseg") is None
    assert value(registry, "attempts_failed_total") == 1


def test_counts_and_test_scores_are_those_that_the_sites_gave(registry: CollectorRegistry) -> None:
    metrics = RunMetrics(registry)
    counts = {"num_train": 35, "num_validation": 5, "num_test": 10, "num_empty": 0}
    metrics.site_prepared(Prepared(site="tnbc", **counts, phantoms=True, version="1"))
    scores = Aggregate(n=10, n_empty=0, mean=0.81, sd=0.1, q25=0.7, median=0.8, q75=0.9)
    seen = EvaluateResult(run_id="r", server_round=4, part="test", dice=scores, iou=scores)
    hidden = EvaluateResult(run_id="r", server_round=4, part="test", dice=None, iou=None)
    metrics.test_finished({"tnbc": seen, "monuseg": hidden})
    assert value(registry, "site_training_images", site="tnbc") == 35
    assert value(registry, "site_test_dice", site="tnbc") == 0.81
    assert value(registry, "site_test_dice", site="monuseg") is None


def test_the_page_lists_every_metric_with_its_labels(registry: CollectorRegistry) -> None:
    metrics = RunMetrics(registry)
    metrics.run_started(PLAN, 0)
    metrics.site_prepared(
        Prepared(
            site="tnbc",
            num_train=1,
            num_validation=1,
            num_test=1,
            num_empty=0,
            phantoms=True,
            version="1",
        )
    )
    privacy = SitePrivacy(epsilon=1.0, delta=0.01, unit="image", units=30)
    metrics.round_finished(record(1, tnbc=SiteRound(privacy=privacy)))
    scores = Aggregate(n=10, n_empty=0, mean=0.81, sd=0.1, q25=0.7, median=0.8, q75=0.9)
    seen = EvaluateResult(run_id="r", server_round=4, part="test", dice=scores, iou=scores)
    metrics.test_finished({"tnbc": seen})
    hub = ExchangeHub(cross_site_terms)
    snapshot = replace(hub.snapshot(), latest_terms={"Bot": 1.0})
    hub.close()
    registry.register(HubCollector(lambda: snapshot, sites=PLAN.sites, online=set))
    registry.register(roster_collector())
    page = (Path(__file__).parents[3] / "docs" / "METRICS.md").read_text(encoding="utf-8")
    assert table(registry) in page


def test_the_roster_in_force_says_until_when_certificates_are_valid(
    registry: CollectorRegistry,
) -> None:
    registry.register(roster_collector())
    assert value(registry, "roster_version") == 7
    what = "the certificate of tnbc"
    expiry = value(registry, "certificate_expiry_timestamp_seconds", certificate=what)
    assert expiry == datetime(2030, 1, 1, tzinfo=UTC).timestamp()


def test_an_epsilon_is_shown_only_where_one_is_claimed(registry: CollectorRegistry) -> None:
    metrics = RunMetrics(registry)
    metrics.run_started(PLAN, 0)
    metrics.round_finished(record(1, tnbc=SiteRound()))
    budget = value(registry, "privacy_epsilon_budget")
    assert budget is not None
    assert math.isnan(budget)
    assert value(registry, "site_privacy_epsilon", site="tnbc") is None
    privacy = SitePrivacy(epsilon=2.5, delta=0.01, unit="image", units=30)
    metrics.round_finished(record(2, tnbc=SiteRound(privacy=privacy)))
    assert value(registry, "site_privacy_epsilon", site="tnbc") == 2.5


def roster_collector() -> RosterCollector:
    ends = {"the certificate of tnbc": datetime(2030, 1, 1, tzinfo=UTC)}
    return RosterCollector(lambda: Roster(version=7), certificate_ends=lambda: ends)


def test_the_hub_s_counters_are_read_when_somebody_looks(registry: CollectorRegistry) -> None:
    layout = TapLayout(names=("Bot",), channels=(2,))
    hub = ExchangeHub(cross_site_terms)
    registry.register(
        HubCollector(hub.snapshot, sites=PLAN.sites, online=lambda: {"tnbc", "stranger"})
    )
    try:
        hub.open_round(
            "run", 1, 1, sites=PLAN.sites, layout=layout, steps=1, deadline_seconds=9,
            max_missed_steps=1,
        )  # fmt: skip
        for number, site in enumerate(PLAN.sites):
            vector = np.arange(4, dtype=np.float32) + number
            key = StepKey("run", 1, 1, 0)
            hub.submit(site, PrototypeFrame(key, vector, np.ones(1, bool)))
        hub.count_refusal("tnbc", FrameRefused(ExchangeCode.NOT_FINITE))
        # F = (0,1), B = (2,3), and 1 more at the other site: D = |F_s-B_t|² + |F_t-B_s|² = 18 + 2.
        assert value(registry, "exchange_last_term", tap="Bot") == pytest.approx(-math.log(20))
        assert value(registry, "exchange_frames_total", direction="in") == 2
        assert value(registry, "exchange_frames_total", direction="out") == 2
        assert value(registry, "exchange_steps_total", outcome="complete") == 1
        assert value(registry, "exchange_refused_total", code="NOT_FINITE") == 1
        assert value(registry, "exchange_refused_total", code="TOO_LATE") == 0
        assert value(registry, "site_online", site="tnbc") == 1
        assert value(registry, "site_online", site="monuseg") == 0
        assert value(registry, "sites_online") == 1
    finally:
        hub.close()

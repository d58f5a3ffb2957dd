"""The agent's metrics and console: the audit log added up, and this site's own scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from fdfed.audit import AuditLog, exported
from fdfed.config import RunPlan
from fdfed.console import Access
from fdfed.evaluation.aggregates import Aggregate
from fdfed.evaluation.joining import MODELS, Joining, OwnScore, answer
from fdfed.exchange import ExchangeStats
from fdfed.process.metrics import table
from fdfed.wire import EvaluateResult, TrainResult
from fdfed_client.console import AgentBoard, agent_console
from fdfed_client.console.words import IN, OUT
from fdfed_client.egress.policy import MESSAGE_KINDS
from fdfed_client.metrics import AgentMetrics

SCORES = Aggregate(n=10, n_empty=0, mean=0.81, sd=0.1, q25=0.7, median=0.8, q75=0.9)


JOINING = Joining(
    scores={model: OwnScore(validation=0.5, test=0.5) for model in MODELS},
    kept="shared",
    joined="shared",
    gain=0.05,
    low=0.01,
    high=0.09,
    images=12,
    patients=4,
    patients_known=True,
    steps=40,
    fine_tuning_steps=4,
)


class Network:
    tap_names = ("Enc1", "Bot")


class FakeSite:
    """What the watchers ask of a site."""

    network = Network()
    alpha = (0.01, 0.0)
    plan = RunPlan(sites=("tnbc", "monuseg"), phantoms=True)


def trained(**stats: Any) -> TrainResult:
    known = np.array([-0.5, np.nan])
    return TrainResult(
        run_id="r",
        server_round=3,
        attempt=1,
        num_examples=30,
        loss_seg=0.4,
        seconds=2.0,
        alpha=np.zeros(2),
        fd=known,
        exch=known,
        valid=np.ones(2),
        exchange=ExchangeStats(**stats),
        weights={},
    )


def scored(part: Any, dice: Aggregate | None = SCORES) -> EvaluateResult:
    return EvaluateResult(run_id="r", server_round=3, part=part, dice=dice, iou=dice)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"fdfed_agent_{name}", labels)


def write_log(folder: Path, watch: Any = lambda line: None) -> Path:
    """A log of two replies, a round of frames, and one that a rule held back."""
    path = folder / "audit.log"
    with AuditLog(path, key=ed25519.Ed25519PrivateKey.generate(), watch=watch) as log:
        log.append("in", "train", bytes=1000, round=3)
        log.append("out", "prototypes", state="begun", round=3)
        log.append("out", "prototypes", state="ended", round=3, frames=20, bytes=400)
        log.append("out", "trained", decision="allowed", bytes=900, round=3)
        log.append("out", "trained", decision="refused", rule="max_update_bytes", bytes=9999)
    return path


def test_every_line_of_the_log_is_counted_by_direction_and_kind(
    registry: CollectorRegistry, tmp_path: Path
) -> None:
    write_log(tmp_path, AgentMetrics(registry, site="tnbc").noted)
    assert value(registry, "messages_total", direction="out", kind="trained") == 1
    assert value(registry, "bytes_total", direction="out", kind="trained") == 900
    assert value(registry, "bytes_total", direction="out", kind="prototypes") == 400
    assert value(registry, "bytes_total", direction="in", kind="train") == 1000
    assert value(registry, "held_back_total", rule="max_update_bytes") == 1
    assert (value(registry, "last_message_timestamp_seconds") or 0) > 1e9


def test_what_the_site_measured_is_what_prometheus_reads(registry: CollectorRegistry) -> None:
    metrics = AgentMetrics(registry, site="tnbc")
    metrics.step_done(3, 1, 20)
    metrics.swapped(0.003)
    metrics.answered(FakeSite(), trained(steps=20, answered=18, dropped=2, peers_mean=2.0))  # type: ignore[arg-type]
    metrics.answered(FakeSite(), scored("validation"))  # type: ignore[arg-type]
    metrics.answered(FakeSite(), scored("test", None))  # type: ignore[arg-type]
    assert value(registry, "round") == 3
    assert value(registry, "round_step") == 1
    assert value(registry, "steps_total") == 1
    assert value(registry, "segmentation_loss") == 0.4
    assert value(registry, "discrepancy_loss", tap="Enc1") == -0.5
    assert value(registry, "alpha", tap="Enc1") == 0.01
    assert value(registry, "exchange_steps_total", outcome="dropped") == 2
    assert value(registry, "dice", part="validation") == 0.81
    assert value(registry, "dice", part="test") is None, "a score that was withheld is not shown"
    assert value(registry, "swap_seconds_bucket", le="0.005") == 1
    assert value(registry, "swap_seconds_bucket", le="0.002") == 0


def test_whether_joining_helped_is_on_this_site_s_own_port_and_page(
    registry: CollectorRegistry,
) -> None:
    metrics, board = AgentMetrics(registry, site="tnbc"), AgentBoard("tnbc")
    metrics.joined(JOINING)
    assert value(registry, "joining_gain_dice", value="mean") == 0.05
    assert value(registry, "joining_gain_dice", value="low") == 0.01
    assert board.snapshot()["joining"] is None
    board.joined(answer("tnbc", JOINING))
    assert board.snapshot()["joining"].startswith("Joining helped tnbc")


def test_the_page_lists_every_metric_with_its_labels(
    registry: CollectorRegistry, tmp_path: Path
) -> None:
    metrics = AgentMetrics(registry, site="tnbc")
    write_log(tmp_path, metrics.noted)
    metrics.answered(FakeSite(), trained())  # type: ignore[arg-type]
    metrics.answered(FakeSite(), scored("validation"))  # type: ignore[arg-type]
    metrics.joined(JOINING)
    page = (Path(__file__).parents[3] / "docs" / "METRICS.md").read_text(encoding="utf-8")
    assert table(registry) in page


def test_the_board_adds_up_what_the_log_says_also_of_before(tmp_path: Path) -> None:
    path = write_log(tmp_path)
    board = AgentBoard("tnbc", history=exported(path))
    first = board.snapshot()
    assert first["bytes_out"] == 1300
    assert [(e["kind"], e["times"]) for e in first["out"]] == [("prototypes", 20), ("trained", 1)]
    assert first["held_back"] == {"max_update_bytes": 1}
    assert first["recent"][0]["refused"] == "max_update_bytes"
    before = board.version
    board.noted(json.loads(list(exported(path))[-3]))
    assert board.version > before
    assert board.snapshot()["bytes_out"] == 2200


def test_the_board_shows_this_site_s_own_curve() -> None:
    board = AgentBoard("tnbc")
    board.answered(FakeSite(), trained(steps=1, dropped=1))  # type: ignore[arg-type]
    board.answered(FakeSite(), scored("validation"))  # type: ignore[arg-type]
    board.step_done(3, 2, 20)
    state = board.snapshot()
    assert state["rounds"] == [
        {"round": 3, "loss_seg": 0.4, "seconds": 2.0, "dropped": 1, "validation": 0.81}
    ]
    assert state["step"] == [3, 2, 20]
    assert state["plan_digest"] == FakeSite.plan.digest


def test_every_kind_that_may_leave_has_words_for_a_reader() -> None:
    assert set(MESSAGE_KINDS) <= set(OUT)
    assert not set(OUT) & set(IN)


def test_the_hospital_s_page_can_be_looked_at_and_nothing_else(tmp_path: Path) -> None:
    board, access = AgentBoard("tnbc"), Access(tmp_path)
    app = agent_console(board, site="tnbc", access=access, hosts=("testserver",))
    browser = TestClient(app)
    assert browser.get("/api/state").status_code == 401
    token = access.token_files["operator"].read_text()
    browser.post("/login", data={"token": token})
    assert "What left this building" in browser.get("/").text
    assert browser.get("/api/state").json()["site"] == "tnbc"
    for path in ("/api/pause", "/api/stop"):
        assert browser.post(path, headers={"x-fdfed-console": "1"}).status_code == 404

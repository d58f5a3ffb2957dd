"""The coordinator's audit log says which plan was run and who was in each round."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.audit import AuditLog, exported, verify
from fdfed.config import RunPlan
from fdfed.evaluation.results import RoundRecord, SiteRound
from fdfed_server.audit_observer import AuditObserver

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def test_plan_rounds_and_refusals_are_in_a_sound_log_without_a_sites_words(tmp_path: Path) -> None:
    plan = RunPlan(sites=("a", "b"))
    with AuditLog(tmp_path / "audit.log", key=KEY) as log:
        observer = AuditObserver(log)
        observer.run_started(plan, 0)
        observer.round_started(1, 1, 1)
        observer.site_answered("a", 1, "")
        observer.site_answered("b", 1, "patient 0815 is broken")
        sites = {"a": SiteRound(num_examples=3), "b": SiteRound(refused="patient 0815")}
        observer.round_finished(RoundRecord(round=1, phase=1, attempt=1, sites=sites))
    assert verify(tmp_path).sound
    text = list(exported(tmp_path))
    assert not [line for line in text if "0815" in line]
    _, started, _, one, other, finished, _ = map(json.loads, text)
    assert started["sha256"] == plan.digest
    assert (one["decision"], other["decision"]) == ("allowed", "refused")
    assert (finished["kind"], finished["sites"]) == ("round", "a")

"""The data-protection record says what the plan, the rules and the audit log say, and no more."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.audit import AuditLog, verify
from fdfed.config import RunPlan
from fdfed.errors import InvalidInput, RefusedByPolicy
from fdfed.process.terminal import run_command
from fdfed_client.cli.main import app
from fdfed_client.config import SiteConfig
from fdfed_client.data_protection import data_protection_record
from fdfed_client.egress import Policy
from fdfed_client.plan_approval import PlanRecords

PLAN = RunPlan(sites=("tnbc", "monuseg"), width=4, size=32, rounds=7, steps_per_round=2)
GUIDE = Path(__file__).parents[3] / "docs" / "DATA_PROTECTION.md"


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    """A hospital that has trained a round, and held one thing back."""
    config = SiteConfig(
        site="tnbc",
        server="fdfed.example.org",
        state=tmp_path / "state",
        min_count=5,
        policy=Policy(require_approval=True, max_epsilon=3.0),
    )
    PlanRecords(config.state).keep(PLAN, "")
    with AuditLog(config.state / "audit.log", key=ed25519.Ed25519PrivateKey.generate()) as log:
        log.append("in", "plan", decision="waits", sha256=PLAN.digest)
        log.append("in", "plan", decision="allowed", sha256=PLAN.digest, by="a person here")
        log.append("out", "prototypes", state="begun", round=1)
        log.append("out", "prototypes", state="ended", round=1, frames=20, bytes=400)
        log.append("out", "trained", decision="allowed", bytes=900, round=1)
        log.append("out", "trained", decision="refused", rule="max_update_bytes", bytes=10)
    return config


def test_the_record_holds_the_plan_the_decision_and_the_head_of_the_log(site: SiteConfig) -> None:
    text = data_protection_record(site)
    assert f"`{PLAN.digest}`" in text
    assert re.search(r"waits on \S+ \S+; allowed on \S+ \S+ by a person here", text)
    assert f"| The hash of its last line | `{verify(site.state).head}` |" in text
    assert "7 rounds of 2 steps" in text
    assert "| Other sites of the plan | monuseg |" in text
    assert "`fdfed.example.org:8443`" in text


def test_what_left_is_what_the_log_says_and_what_was_held_back_is_named(site: SiteConfig) -> None:
    text = data_protection_record(site)
    assert "| 20 | 400 | Averages of network features" in text
    assert "| 1 | 900 | The network's weights" in text
    assert "Held back by this hospital's rules: 1 by `max_update_bytes`." in text


def test_the_rules_of_the_hospital_are_what_protects_it(site: SiteConfig) -> None:
    text = data_protection_record(site)
    assert "Scores over fewer than 5 images" in text
    assert "only under a plan that the coordinator signed, and only once a person here" in text
    assert "ε of at most 3 over all runs" in text
    loose = site.model_copy(update={"policy": Policy(require_signed_plan=False)})
    assert "ALSO UNDER A PLAN THAT NOBODY SIGNED" in data_protection_record(loose)


def test_what_nobody_told_the_program_is_left_to_fill_in(site: SiteConfig) -> None:
    text = data_protection_record(site)
    for asked in ("Legal basis", "Controller", "Purpose", "Images for training", "Persons"):
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {asked}")]
        assert "**FILL IN**" in row


def test_the_guide_names_the_sections_of_the_record_in_their_order(site: SiteConfig) -> None:
    sections = re.findall(r"^## (.+)$", data_protection_record(site), re.MULTILINE)
    rows = [line.split("|")[1].strip() for line in GUIDE.read_text().splitlines() if "|" in line]
    assert [row for row in rows if row in sections] == sections


def test_an_altered_log_gives_no_record(site: SiteConfig) -> None:
    path = site.state / "audit.log"
    path.write_bytes(path.read_bytes().replace(b'"bytes":900', b'"bytes":100'))
    with pytest.raises(RefusedByPolicy, match="not as it was written"):
        data_protection_record(site)


def test_before_any_plan_there_is_nothing_to_record(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no run plan has come"):
        data_protection_record(SiteConfig(site="tnbc", state=tmp_path))


def test_the_command_writes_a_new_file_and_overwrites_none(
    site: SiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "site.toml", tmp_path / "record.md"
    file.write_text('site = "tnbc"\n')
    command = ["fdfed-client", "record", "--site=tnbc", f"--config={file}", f"--out={out}"]
    monkeypatch.setattr(sys, "argv", command)
    assert run_command(app) == 0
    assert PLAN.digest in out.read_text()
    out.write_text("filled in")
    assert run_command(app) == 2
    assert out.read_text() == "filled in"

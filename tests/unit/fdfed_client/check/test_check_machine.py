"""Images, memory, disk, audit log and rules: each trouble is told with its exit code."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from rich.console import Console

from fdfed.audit import AuditLog
from fdfed.config import RunPlan
from fdfed.data import write_phantoms
from fdfed.files.state_format import AGENT, FILE
from fdfed.process.terminal import run_command
from fdfed.training.initialise import initial_network
from fdfed_client.check import exit_code_of, run_checks, show
from fdfed_client.check import machine as machine_room
from fdfed_client.check.images import check_images
from fdfed_client.check.machine import check_machine, needed_bytes
from fdfed_client.check.result import CheckResult, ok, problem, warning
from fdfed_client.check.rules import check_rules
from fdfed_client.cli.main import app
from fdfed_client.config import SiteConfig
from fdfed_client.egress import Policy
from fdfed_client.membership import read_site_key
from fdfed_client.plan_approval import PlanRecords

from .conftest import Start

SMALL = RunPlan(sites=("tnbc", "monuseg"), width=4, size=32)


def by_topic(results: object) -> dict[str, CheckResult]:
    return {result.topic: result for result in results}  # type: ignore[attr-defined]


def test_memory_is_four_times_the_parameters_and_grows_evenly_with_the_batch() -> None:
    def needed(batch: int) -> int:
        return needed_bytes(SMALL.model_copy(update={"batch_size": batch}))

    assert needed(8) - needed(4) == needed(12) - needed(8) > 0
    without_images = 2 * needed(4) - needed(8)
    parameters = sum(p.numel() for p in initial_network(SMALL).parameters())
    assert without_images == 2**30 + 4 * 4 * parameters


def test_a_plan_that_is_too_large_for_this_machine_is_told(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = by_topic(check_machine(site, SMALL, asked=True))
    assert results["memory"].level == "ok"
    monkeypatch.setattr(machine_room, "free_bytes", lambda device: 2**29)
    result = by_topic(check_machine(site, SMALL, asked=True))["memory"]
    assert (result.level, result.exit_code) == ("problem", 2)
    assert "0.5 GiB are free" in result.found
    assert "smaller batch" in result.remedy


def test_a_gpu_that_is_not_there_is_told(site: SiteConfig) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    wanted = site.model_copy(update={"device": "cuda"})
    result = by_topic(check_machine(wanted, SMALL, asked=False))["device"]
    assert (result.level, result.exit_code) == ("problem", 2)


@pytest.mark.parametrize(("free", "level"), [(2**29, "problem"), (2**32, "warning")])
def test_a_full_disk_is_told(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch, free: int, level: str
) -> None:
    usage = namedtuple("usage", "total used free")(2**40, 2**40 - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert by_topic(check_machine(site, SMALL, asked=True))["disk"].level == level


def test_a_state_of_a_newer_version_is_told(site: SiteConfig) -> None:
    assert by_topic(check_machine(site, SMALL, asked=True))["state"].level == "ok"
    site.state.mkdir(exist_ok=True)
    newer = {"who": "agent", "format": AGENT.number + 1, "fdfed": "9.0"}
    (site.state / FILE).write_text(json.dumps(newer))
    result = by_topic(check_machine(site, SMALL, asked=True))["state"]
    assert (result.level, result.exit_code) == ("problem", 2)
    assert "was written by fdfed 9.0" in result.found


def test_an_audit_log_that_was_altered_is_a_matter_of_policy(site: SiteConfig) -> None:
    path = site.state / "audit.log"
    with AuditLog(path, key=read_site_key(site.signing_key)) as log:
        log.append("out", "trained", bytes=3)
    assert by_topic(check_machine(site, SMALL, asked=True))["audit log"].level == "ok"
    path.write_bytes(path.read_bytes().replace(b'"bytes":3', b'"bytes":4'))
    result = by_topic(check_machine(site, SMALL, asked=True))["audit log"]
    assert (result.level, result.exit_code) == ("problem", 5)


def test_findings_in_the_images_are_told_a_line_each_and_exit_with_3(
    site: SiteConfig, tmp_path: Path
) -> None:
    folder = write_phantoms(tmp_path, "tnbc", images=9, size=32)
    (result, *_) = check_images(site, tmp_path, phantoms=False)
    assert result.level == "ok"
    for image in sorted((folder / "images").iterdir())[:7]:
        image.write_bytes(b"no picture")
    results = list(check_images(site, tmp_path, phantoms=False))
    assert len(results) == 6
    assert {r.exit_code for r in results} == {3}
    assert "findings more" in results[-1].found


def test_no_images_at_all_exit_with_3(site: SiteConfig) -> None:
    (result,) = check_images(site, None, phantoms=False)
    assert (result.level, result.exit_code) == ("problem", 3)


def test_a_plan_that_the_rules_forbid_or_nobody_approved_is_a_matter_of_policy(
    site: SiteConfig,
) -> None:
    def level(policy: Policy, *, approved: bool = False) -> tuple[str, int]:
        config = site.model_copy(update={"policy": policy})
        result = by_topic(check_rules(config, SMALL, approved=approved))["run plan"]
        return result.level, result.exit_code

    assert level(Policy()) == ("ok", 0)
    assert level(Policy(max_rounds=3)) == ("problem", 5)
    assert level(Policy(require_approval=True)) == ("problem", 5)
    assert level(Policy(require_approval=True), approved=True) == ("ok", 0)


def test_rules_that_protect_nothing_are_shouted(site: SiteConfig) -> None:
    lax = Policy(require_signed_plan=False)
    config = site.model_copy(update={"policy": lax, "allow_deterministic": True})
    text = by_topic(check_rules(config, None, approved=False))["policy"].found
    assert "UNSIGNED PLANS ARE TAKEN" in text
    assert "HIDES NOTHING" in text


# --- all of it, and the screen


def test_the_status_is_that_of_the_first_problem() -> None:
    lines = [ok("a", "x"), warning("b", "x", "y"), problem("c", "x", "y", exit_code=3)]
    assert exit_code_of(lines[:2]) == 0
    assert exit_code_of([*lines, problem("d", "x", "y", exit_code=5)]) == 3


def test_the_screen_says_what_is_wrong_and_what_to_do_without_reading_markup() -> None:
    console = Console(width=80, file=io.StringIO())
    show([("Rules", problem("run plan", "[red]x[/red]", "do y"))], console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "PROBLEM" in text
    assert "[red]x[/red]" in text
    assert "→ do y" in text
    assert "1 problem(s)" in text


def test_a_plan_that_came_is_what_is_checked(site: SiteConfig, start: Start) -> None:
    PlanRecords(site.state).keep(SMALL, "")
    config = site.model_copy(update={"fleet_port": start().port, "exchange_port": 1})
    results = [result for _, result in run_checks(config, phantoms=True)]
    (memory,) = [result for result in results if result.topic == "memory"]
    assert "unet, batch 8, 32 px" in memory.found
    assert exit_code_of(results) == 4  # nothing listens on the exchange's port


def test_the_command_exits_with_the_code_of_what_it_found(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = site.roster.parent / "site.toml"
    text = path.read_text().replace("8443", "1").replace("8444", "2")
    path.write_text(text)
    arguments = ["check", "--site", "tnbc", "--config", str(path), "--phantoms"]
    monkeypatch.setattr(sys, "argv", ["fdfed-client", *arguments])
    assert run_command(app) == 4
    out = capsys.readouterr().out
    assert "fleet port" in out
    assert "cannot take part yet" in out

"""`fdfed-client`: its help, its exit codes, and what it refuses before it connects."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fdfed.config import RunPlan
from fdfed.data import write_phantoms
from fdfed.files.state_format import AGENT
from fdfed.files.state_lock import only_process
from fdfed.membership.enrolment import EnrolmentRequest
from fdfed.process.terminal import run_command
from fdfed_client.cli.main import app
from fdfed_client.plan_approval import PlanRecords
from fdfed_server.handing_out import hand_out
from fdfed_server.provision import provision
from fdfed_server.roster_change import add_signature, draft_site, publish
from fdfed_server.vault import Vault, read_signer_key

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def client(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs `fdfed-client` in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr(sys, "argv", ["fdfed-client", *map(str, arguments)])
        code = run_command(app)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    handler = signal.getsignal(signal.SIGTERM)
    loggers = [logging.getLogger(name) for name in ("fdfed", "fdfed_server", "fdfed_client")]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield call
    signal.signal(signal.SIGTERM, handler)
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("consortium") / "federation"
    provision(
        ["tnbc", "monuseg"],
        folder,
        hosts=["localhost"],
        fleet_port=8443,
        exchange_port=8444,
        control_port=8445,
        days=1,
    )
    return folder


def test_help_says_what_a_newcomer_needs(client: Command) -> None:
    code, out, err = client("--help")
    assert (code, err) == (0, "")
    text = " ".join(out.replace("│", " ").split())
    for expected in (
        *("--site", "--data", "--phantoms", "--config", "SITE/images and SITE/masks"),
        *("audit.log", "stay here", "runs no code", "Ctrl-C"),
    ):
        assert expected in text, expected


def test_an_agent_without_images_refuses_with_3_and_says_what_to_give(
    client: Command, federation: Path
) -> None:
    config = federation / "sites" / "tnbc" / "site.toml"
    code, out, err = client("--site", "tnbc", "--config", config)
    assert (code, out) == (3, "")
    assert "tnbc has no images: give --data DIR" in err
    assert "--phantoms" in err
    assert "Traceback" not in err


def test_the_configuration_of_another_site_is_refused(client: Command, federation: Path) -> None:
    config = federation / "sites" / "monuseg" / "site.toml"
    code, _, err = client("--site", "tnbc", "--config", config, "--phantoms")
    assert code == 2
    assert "--site is tnbc, but the configuration belongs to monuseg" in err


def test_a_site_without_a_configuration_is_told_where_it_was_sought(
    client: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = client("--site", "tnbc", "--phantoms")
    assert code == 2
    assert "federation/sites/tnbc/site.toml" in err
    assert "fdfed-server provision" in err


def test_findings_in_the_images_are_all_told_before_anything_connects(
    client: Command, federation: Path, tmp_path: Path
) -> None:
    folder = write_phantoms(tmp_path, "tnbc", images=6, size=32)
    images = sorted((folder / "images").iterdir())
    images[0].write_bytes(b"no picture")
    (folder / "masks" / images[1].name).unlink()
    config = federation / "sites" / "tnbc" / "site.toml"
    code, _, err = client("--site", "tnbc", "--config", config, "--data", tmp_path)
    assert code == 3
    assert images[0].name in err
    assert images[1].name in err
    assert "Traceback" not in err


def test_data_and_phantoms_exclude_each_other(
    client: Command, federation: Path, tmp_path: Path
) -> None:
    config = federation / "sites" / "tnbc" / "site.toml"
    code, _, err = client(*("--site", "tnbc", "--config", config, "--data", tmp_path, "--phantoms"))
    assert code == 2
    assert "--data and --phantoms exclude each other" in err


@pytest.mark.parametrize("arguments", [(), ("--site",), ("--site", "a", "--threads", "0")])
def test_a_wrong_use_exits_with_2(client: Command, arguments: tuple[str, ...]) -> None:
    code, _, err = client(*arguments)
    assert code == 2
    assert "Traceback" not in err


def test_the_plan_that_was_asked_for_is_shown_in_words_and_approved_by_its_whole_hash(
    client: Command, federation: Path
) -> None:
    config = federation / "sites" / "tnbc" / "site.toml"
    words = ("plan", "--site", "tnbc", "--config", config)
    code, _, err = client(*words)
    assert (code, "no run plan has come to tnbc yet" in err) == (2, True)
    plan = RunPlan(sites=("tnbc", "monuseg"))
    records = PlanRecords(config.parent / "state")
    records.keep(plan, "")
    code, out, _ = client(*words)
    assert code == 0
    assert "not approved" in out
    # What to type next, to be copied from a terminal of 80 columns.
    assert out.splitlines()[-1].endswith(f" --approve {plan.digest}")
    assert "sees this site's weights" in out
    code, _, err = client(*words, "--approve", plan.digest[:16])
    assert (code, "give the whole hash" in err) == (5, True)
    assert not records.has_approved(plan.digest)
    assert client(*words, "--approve", plan.digest)[0] == 0
    assert records.has_approved(plan.digest)
    assert "not approved" not in client(*words)[1]


def test_enrolling_is_one_command_before_and_after_the_consortium_has_answered(
    client: Command, tmp_path: Path
) -> None:
    out = tmp_path / "f"
    provision(["tnbc"], out, with_site_keys=False)
    pack = out / "sites" / "tnbc"
    code, _, err = client("--site", "tnbc", "--config", pack / "site.toml", "--phantoms")
    assert (code, f"fdfed-client enrol {pack}" in err) == (2, True)
    code, shown, _ = client("enrol", pack, "--no-relay")
    vault = Vault(out / "consortium")
    request = EnrolmentRequest.parse((pack / "request.json").read_bytes(), source="request")
    assert (code, f"fingerprint {request.fingerprint}" in shown) == (0, True)
    assert "holds nothing secret" in shown
    draft_site(vault, request, days=9)
    add_signature(vault, read_signer_key(vault.folder / "consortium.key"))
    hand_out(vault, publish(vault), out)
    code, shown, _ = client("enrol", pack)
    assert (code, "tnbc is enrolled, under roster version 2" in shown) == (0, True)
    code, shown, _ = client("enrol", pack)
    assert (code, "--renew asks for a new certificate" in shown) == (0, True)
    code, _, err = client("enrol", tmp_path)
    assert (code, "is no enrolment pack" in err) == (2, True)


def test_a_coordinator_that_is_not_there_does_not_keep_the_request_from_being_made(
    client: Command, tmp_path: Path
) -> None:
    out = tmp_path / "f"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    provision(["tnbc"], out, fleet_port=port, with_site_keys=False)
    code, shown, _ = client("enrol", out / "sites" / "tnbc")
    assert code == 0
    assert "cannot be reached" in shown
    assert (out / "sites" / "tnbc" / "request.json").exists()


def test_a_second_agent_on_one_state_folder_is_locked_out(
    client: Command, federation: Path
) -> None:
    config = federation / "sites" / "tnbc" / "site.toml"
    with only_process(config.parent / "state", form=AGENT, remedy="stop it"):
        code, _, err = client("--site", "tnbc", "--config", config, "--phantoms")
    assert code == 2
    assert "another agent uses" in err
    assert "A copy of its folder is no second site" in err

"""`fdfed-server`: its help, its exit codes, and what it refuses before anything starts."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tomli_w

from fdfed.files.state_format import COORDINATOR
from fdfed.files.state_lock import only_process
from fdfed.membership.roster import Roster
from fdfed.process.terminal import run_command
from fdfed_client.enrolment import SiteFolder
from fdfed_server.cli.main import app

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def process() -> Iterator[None]:
    """Puts back what `start` changes of its process."""
    environment, handler, mask = dict(os.environ), signal.getsignal(signal.SIGTERM), os.umask(0o022)
    os.umask(mask)
    loggers = [logging.getLogger(name) for name in ("fdfed", "fdfed_server", "fdfed_client")]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield
    os.environ.clear()
    os.environ.update(environment)
    os.umask(mask)
    signal.signal(signal.SIGTERM, handler)
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `fdfed-server` in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr(sys, "argv", ["fdfed-server", *map(str, arguments)])
        code = run_command(app)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("command", "texts"),
    [
        ((), ("provision", "start", "status", "never an image")),
        (("start",), ("federation.toml", "--state", "Ctrl-C", "--log-format", "goes on after")),
        (("status",), ("--watch", "Exit code 4", "--state")),
        (("provision",), ("--sites", "--hosts", "consortium", "offline", "nothing is overwritten")),
    ],
)
def test_help_says_what_a_newcomer_needs(
    server: Command, command: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    code, out, err = server(*command, "--help")
    assert (code, err) == (0, "")
    for text in texts:
        assert text in " ".join(out.replace("│", " ").split()), text


def test_start_without_a_configuration_says_how_to_make_one(
    server: Command, tmp_path: Path
) -> None:
    code, out, err = server("start", "--config", tmp_path / "federation.toml")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "does not exist" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("content", "text"),
    [("[run]\nround = 3\n", "run.round"), ("[server]\nport = 1\n", "server.port")],
)
def test_start_names_the_key_that_it_does_not_know(
    server: Command, tmp_path: Path, content: str, text: str
) -> None:
    config = tmp_path / "federation.toml"
    config.write_text(content)
    code, _, err = server("start", "--config", config)
    assert code == 2
    assert text in err


def test_provision_says_what_to_do_next_and_overwrites_nothing(
    server: Command, tmp_path: Path
) -> None:
    out_folder = tmp_path / "of [two]"
    code, out, err = server("provision", "--sites", "tnbc,monuseg", "--out", out_folder)
    assert (code, err) == (0, "")
    assert f"fdfed-server start --config {out_folder}/server/federation.toml" in out
    assert f"fdfed-client enrol {out_folder}/sites/tnbc" in out
    assert "fdfed-server roster add REQUEST" in out
    assert not list((out_folder / "sites").rglob("*.key"))
    before = {path: path.read_bytes() for path in out_folder.rglob("*") if path.is_file()}
    code, out, err = server("provision", "--sites", "tnbc,monuseg", "--out", out_folder)
    assert code == 2
    assert str(out_folder) in err
    assert before == {path: path.read_bytes() for path in out_folder.rglob("*") if path.is_file()}


def test_a_second_coordinator_on_one_state_folder_is_refused(
    server: Command, tmp_path: Path
) -> None:
    out_folder = tmp_path / "federation"
    server("provision", "--sites", "tnbc,monuseg", "--out", out_folder)
    state = tmp_path / "state"
    state.mkdir()
    with only_process(state, form=COORDINATOR, remedy="stop it"):
        code, _, err = server(
            *("start", "--config", out_folder / "server" / "federation.toml", "--state", state)
        )
    assert code == 2
    assert "another coordinator uses" in err


@pytest.mark.parametrize(
    ("run", "text"),
    [
        ({"strategy": "pooled"}, "no federation of hospitals"),
        ({"exchange": {"delay_steps": 1.0}}, "a federation has its own"),
        ({"sites": ["tnbc", "udiat"]}, "udiat, which the roster does not know"),
    ],
)
def test_a_plan_that_the_consortium_cannot_run_is_refused(
    server: Command, tmp_path: Path, run: dict[str, object], text: str
) -> None:
    out_folder = tmp_path / "federation"
    server("provision", "--sites", "tnbc,monuseg", "--out", out_folder)
    config = out_folder / "server" / "federation.toml"
    tables = tomllib.loads(config.read_text())
    tables["run"] |= run
    config.write_text(tomli_w.dumps(tables))
    code, _, err = server("start", "--config", config, "--state", tmp_path / "state")
    assert code == 2
    assert text in err


def test_a_trusted_dealer_must_be_asked_for_by_name_and_says_what_it_is(
    server: Command, tmp_path: Path
) -> None:
    code, out, _ = server(
        *("provision", "--sites", "tnbc", "--out", tmp_path / "f", "--with-site-keys")
    )
    assert code == 0
    assert "Every private key was made here" in out
    assert f"fdfed-client --site tnbc --config {tmp_path}/f/sites/tnbc/site.toml" in out
    assert (tmp_path / "f" / "sites" / "tnbc" / "signing.key").exists()


def test_two_of_three_signers_admit_and_remove_a_site_by_commands_alone(
    server: Command, tmp_path: Path
) -> None:
    out = tmp_path / "f"
    signers = ("--signers", "alice,bob,carol", "--threshold", "2")
    assert server("provision", "--sites", "tnbc", "--out", out, *signers)[0] == 0
    request = SiteFolder.open(out / "sites" / "tnbc").request()
    where = ("--consortium", out / "consortium")
    code, text, _ = server("roster", "add", out / "sites" / "tnbc" / "request.json", *where)
    assert (code, f"tnbc joins: {request.fingerprint}" in text) == (0, True)
    assert "2 of alice, bob, carol must sign" in text
    sign = ("roster", "sign", *where, "--key")
    code, _, err = server(*sign, out / "signers" / "alice.key")
    assert (code, "nothing was signed" in err) == (2, True)
    assert server(*sign, out / "signers" / "alice.key", "--yes")[0] == 0
    code, _, err = server("roster", "publish", *where)
    assert (code, "asks for 2 of alice, bob, carol" in err) == (4, True)
    sent = tmp_path / "bob.sig"
    assert server(*sign, out / "signers" / "bob.key", "--yes", "--out", sent)[0] == 0
    code, text, _ = server("roster", "publish", sent, *where)
    assert (code, "roster version 2 is in force" in text) == (0, True)
    code, text, _ = server("roster", "show", *where)
    assert (code, request.fingerprint in text, "2 of alice, bob, carol" in text) == (0, True, True)
    assert server("roster", "remove", "udiat", *where)[0] == 2
    code, text, _ = server("roster", "remove", "tnbc", *where)
    assert (code, "tnbc is removed" in text) == (0, True)


def vault_fingerprint(out: Path) -> str:
    return Roster.load(out / "server" / "roster.json").sites["tnbc"].fingerprint


def test_one_signer_whose_key_is_at_hand_does_it_in_one_command(
    server: Command, tmp_path: Path
) -> None:
    out = tmp_path / "f"
    where = ("--consortium", out / "consortium")
    assert server("provision", "--sites", "tnbc", "--out", out)[0] == 0
    site = SiteFolder.open(out / "sites" / "tnbc")
    site.request()
    code, text, _ = server("roster", "add", site.folder / "request.json", *where)
    assert (code, "roster version 2 is in force" in text) == (0, True)
    shown = server("roster", "show", *where)[1]
    assert "request " not in shown, "it has been answered"
    assert vault_fingerprint(out) in shown
    site.complete((site.folder / "answer.json").read_bytes(), source="the answer")
    code, text, _ = server("roster", "invite", "busi", *where)
    assert (code, "fdfed-client enrol busi" in text) == (0, True)
    assert (out / "sites" / "busi" / "invitation.json").exists()
    code, text, _ = server("roster", "key", tmp_path / "dora.key")
    assert (code, (tmp_path / "dora.key").stat().st_mode & 0o777) == (0, 0o600)
    code, text, _ = server(
        *("roster", "signers", f"dora={tmp_path / 'dora.key.pub'}", "--threshold", "1", *where)
    )
    assert (code, "the new signers sign the roster next" in text) == (0, True)
    assert server("roster", "sign", "--key", tmp_path / "dora.key", "--yes", *where)[0] == 0
    code, text, _ = server("roster", "publish", *where)
    assert (code, "roster version 3 is in force" in text) == (0, True)

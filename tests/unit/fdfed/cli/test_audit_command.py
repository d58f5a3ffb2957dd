"""`fdfed audit`: exit codes, and what a person and a SIEM get to see."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.audit import AuditLog
from fdfed.audit.line import public_text
from fdfed.cli.main import app
from fdfed.process.terminal import run_command

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fdfed", "audit", *map(str, arguments)])
        code = run_command(app)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with AuditLog(tmp_path / "audit.log", key=KEY) as log:
        log.append("out", "trained", bytes=3)
    return tmp_path


def test_a_sound_log_exits_with_0_and_shows_its_last_hash_and_its_key(
    command: Command, folder: Path
) -> None:
    for path in (folder, folder / "audit.log"):
        code, out, _ = command("verify", path)
        assert code == 0
        assert "3 lines" in out
        assert public_text(KEY) in out
    head = out.split("hash ")[1].split()[0]
    assert command("verify", folder, "--head", head, "--key", public_text(KEY))[0] == 0


def test_an_altered_log_exits_with_5_and_says_where(command: Command, folder: Path) -> None:
    path = folder / "audit.log"
    path.write_bytes(path.read_bytes().replace(b'"bytes":3', b'"bytes":4'))
    code, _, err = command("verify", folder)
    assert code == 5
    assert "audit.log, line 2 is not signed by the key of the log: it was edited" in err
    assert command("verify", folder, "--head", "ab" * 32)[0] == 5


def test_no_log_at_all_exits_with_2(command: Command, tmp_path: Path) -> None:
    code, _, err = command("verify", tmp_path / "nowhere")
    assert code == 2
    assert "holds no audit log" in err


def test_a_siem_gets_json_lines_from_a_moment_on(command: Command, folder: Path) -> None:
    code, out, _ = command("export", folder)
    assert code == 0
    assert [json.loads(line)["kind"] for line in out.splitlines()] == [
        *("opened", "trained", "closed"),
    ]
    later = f"{datetime.now(UTC).year + 1}-01-01"
    assert command("export", folder, "--since", later) == (0, "", "")
    assert command("export", folder, "--since", "2020-01-01T00:00:00+0200")[1] == out

"""The page of a first federation does what it says, command by command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.processes import free_ports
from tests.unit.test_documents import fenced

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorials" / "first-federation.md"


def script() -> str:
    """The page's commands as they stand, with free ports for those that other tests may hold."""
    text = "".join(fenced(PAGE.read_text(encoding="utf-8"), "sh"))
    fleet, exchange, control = free_ports(3)
    ports = f"--fleet-port {fleet} --exchange-port {exchange} --control-port {control}"
    found, count = re.subn(r"^(fdfed-server provision .*)$", rf"\1 {ports}", text, flags=re.M)
    assert count == 1
    return found


def numberless(line: str) -> str:
    """A line without what differs from run to run: hashes, numbers, and spaces at its end."""
    return re.sub(r"\b[0-9a-f]{32,}\b|\d+(\.\d+)?", "#", line).rstrip()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A shell that runs the page in an empty folder, with this checkout's fdfed."""
    folder = tmp_path / "federation-of-a-reader"
    folder.mkdir()
    environment = os.environ | {
        "PATH": os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"])),
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "server", "client")),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "80",
    }
    with (tmp_path / "shown").open("wb") as shown:
        shell = subprocess.Popen(
            ["bash", "-euxo", "pipefail", "-c", script()],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=shown,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        yield shell, folder
    # What a failure left running is in the shell's group.
    with suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_every_command_of_the_first_federation_works_in_the_order_of_the_page(
    page: tuple[subprocess.Popen[bytes], Path],
) -> None:
    shell, folder = page
    code = shell.wait(500)
    shown = (folder.parent / "shown").read_text()
    logs = "".join(path.read_text() for path in sorted(folder.glob("*.log")))
    assert code == 0, shown + logs

    told = {numberless(line) for line in shown.splitlines()}
    for block in fenced(PAGE.read_text(encoding="utf-8"), "text"):
        for line in block.splitlines():
            assert numberless(line) in told, f"nothing said {line!r}:\n{shown}"
    assert "by a person here" in (folder / "tnbc.log").read_text()
    assert "by the rules of site.toml" in (folder / "monuseg.log").read_text()

    assert (folder / "federation/server/state/results/report.html").exists()
    record = (folder / "record-tnbc.md").read_text()
    assert "by a person here" in record
    images = list((folder / "hospitals/tnbc/state/phantoms/tnbc/images").iterdir())
    rows = (folder / "predicted/predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + len(images) > 1
    assert len(list((folder / "predicted/masks").iterdir())) == len(images)
    assert (folder / "bundle/configs/metadata.json").exists()
    # No private key of a hospital was ever anywhere but in its own folder.
    for key in (folder / "hospitals").glob("*/*.key"):
        secret = key.read_bytes().strip().splitlines()[-2:][0]
        others = [p for p in (folder / "federation").rglob("*") if p.is_file()]
        assert not [p for p in others if secret in p.read_bytes()], key

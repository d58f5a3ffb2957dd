"""The house rules that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("fdfed", "server/fdfed_server", "client/fdfed_client")
SOURCES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if "_pb2" not in path.name
)
PUBLIC_FLOWER = {"flwr.app", "flwr.serverapp", "flwr.clientapp"}


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_flower_modules_are_imported_in_one_folder_of_each_side(path: Path) -> None:
    private = {
        name
        for name in imported_modules(path)
        if name.split(".")[0] == "flwr" and name not in PUBLIC_FLOWER
    }
    assert not private or path.parent.name == "flower"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_pickled_and_no_input_is_asserted(path: Path) -> None:
    assert not {"pickle", "dill", "cloudpickle", "shelve"} & imported_modules(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert "torch.load(" not in path.read_text(encoding="utf-8")


WALL_TIME = re.compile(r"\btime\.time(_ns)?\b|\bnow\((dt\.)?UTC\)|\bnow\((tz=|dt\.timezone)|utcnow")
"""A moment by the wall clock, which may jump."""
SHOWN_OR_SIGNED = {
    # Moments that are written down, shown, or compared with the other side's on purpose.
    "fdfed/release.py",
    "fdfed/audit/line.py",
    "fdfed/process/health.py",
    "server/fdfed_server/metrics/run.py",
    "server/fdfed_server/status.py",
    "server/fdfed_server/console/board.py",
    "client/fdfed_client/metrics.py",
    "client/fdfed_client/data_protection.py",
    "client/fdfed_client/check/network.py",
    "client/fdfed_client/flower/fleet.py",
    "client/fdfed_client/group.py",
    # The life of a certificate or of the roster, which is a matter of dates.
    "fdfed/membership/expiry.py",
    "server/fdfed_server/certificates.py",
    "server/fdfed_server/membership.py",
    "client/fdfed_client/exchange_identity.py",
    # Against moments that Flower has stored, by the same machine's clock.
    "server/fdfed_server/flower/deliveries.py",
}


def test_no_deadline_and_no_pause_is_counted_by_the_wall_clock() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if WALL_TIME.search(path.read_text(encoding="utf-8"))
    }
    assert found == SHOWN_OR_SIGNED


def test_every_folder_of_code_is_a_package_and_says_what_it_is_for() -> None:
    for folder in {path.parent for path in SOURCES}:
        init = folder / "__init__.py"
        assert init.exists(), folder
        assert ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))), init


def test_the_repository_holds_no_picture_but_those_of_the_documentation() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    pictures = [name for name in listed if re.search(r"\.(png|jpe?g|tiff?|bmp|dcm)$", name, re.I)]
    assert all(name.startswith("docs/images/") for name in pictures), pictures

"""The bill of materials lists what an installed fdfed runs on; an audit that did not take place
does not pass for one that found nothing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

from fdfed import __version__

SCRIPT = Path(__file__).parents[2] / ".ci" / "supply_chain.py"


@pytest.fixture(scope="module")
def supply_chain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("supply_chain", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bill(supply_chain: ModuleType) -> dict[str, Any]:
    made: dict[str, Any] = supply_chain.runtime(
        supply_chain.environment(), supply_chain.requirements()
    )
    return made


def test_the_bill_is_of_this_version_and_lists_what_it_needs_as_it_is_installed(
    bill: dict[str, Any], supply_chain: ModuleType
) -> None:
    root = bill["metadata"]["component"]
    assert (root["name"], root["version"]) == ("fdfed", __version__)
    listed = {supply_chain.normal(part["name"]): part["version"] for part in bill["components"]}
    asked = {supply_chain.normal(one.name) for one in supply_chain.requirements()}
    assert asked <= set(listed)
    for name in ("torch", "flwr", "cryptography", "starlette"):  # the last by way of fastapi
        assert listed[name] == metadata.version(name)


def test_the_bill_leaves_out_what_fdfed_is_made_with(bill: dict[str, Any]) -> None:
    names = {part["name"] for part in bill["components"]}
    assert not names & {"pytest", "mypy", "ruff", "hypothesis", "cyclonedx-bom", "pip_audit"}


def test_every_dependency_that_the_bill_names_is_in_it(bill: dict[str, Any]) -> None:
    parts = {part["bom-ref"] for part in bill["components"]}
    parts.add(bill["metadata"]["component"]["bom-ref"])
    assert {entry["ref"] for entry in bill["dependencies"]} == parts
    assert {ref for entry in bill["dependencies"] for ref in entry.get("dependsOn", [])} <= parts


def test_the_bill_is_of_the_form_of_cyclonedx_and_another_form_is_noticed(
    bill: dict[str, Any], supply_chain: ModuleType
) -> None:
    # A few packages: all are of one form, and the schema takes a tenth of a second for each.
    some = {**bill, "components": bill["components"][:5], "dependencies": []}
    supply_chain.check_form(some)
    with pytest.raises(SystemExit, match="not of the form"):
        supply_chain.check_form({**some, "components": [{"name": "no type"}]})


def test_a_package_that_is_needed_and_not_installed_is_named(supply_chain: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no-such-package is not installed here"):
        supply_chain.needs([Requirement("no_such.package>=1")])


def test_an_audit_that_cannot_ask_fails_and_says_that_nothing_was_audited(tmp_path: Path) -> None:
    # A proxy at which nobody listens: nothing goes out.
    away = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:1")
    done = subprocess.run(
        [sys.executable, SCRIPT, "audit", tmp_path / "found.json"],
        env=os.environ | away | {"NO_PROXY": "", "no_proxy": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 4
    assert "NOTHING WAS AUDITED" in done.stderr
    assert not (tmp_path / "found.json").exists()

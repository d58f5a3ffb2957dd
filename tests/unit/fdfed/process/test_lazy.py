"""Packages that load their names on use: complete, and light where they must be."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

HEAVY = ("torch", "scipy", "matplotlib", "monai")


@pytest.mark.parametrize("package", ["fdfed.exchange", "fdfed.wire", "fdfed_server.flower"])
def test_every_name_of_a_package_is_found_and_is_no_module_of_it(package: str) -> None:
    found = importlib.import_module(package)
    for name in found.__all__:
        # A name that a module of the package has too would be hidden by it.
        assert not isinstance(getattr(found, name), ModuleType), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        found.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("module", "spared"),
    [
        ("fdfed_server.flower.__main__", HEAVY),
        ("fdfed_server.provision", HEAVY),
        # Up to here the coordinator comes before it starts the SuperLink, and loads the rest.
        ("fdfed_server.coordinator", HEAVY),
        ("fdfed_server.federation", ("matplotlib", "monai", "scipy", "sqlalchemy")),
        ("fdfed_client.agent", ("ignite", "jsonschema", "sqlalchemy")),
    ],
)
def test_a_process_loads_nothing_large_that_it_has_no_use_for(
    module: str, spared: tuple[str, ...]
) -> None:
    lean = "from fdfed.process.lean_monai import spare_optional_parts as spare; spare()"
    code = f"{lean}; import sys, {module}; print(*(set({spared!r}) & set(sys.modules)))"
    # An interpreter of its own: this one has loaded everything.
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []

"""The deployment files start commands that exist, with options that exist."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import click
import pytest
import typer.main

from fdfed_client.cli.main import app as client
from fdfed_client.config import SiteConfig
from fdfed_server.cli.main import app as server

UNITS = sorted((Path(__file__).parents[2] / "deploy" / "systemd").glob("*.service"))
APPS = {"fdfed-server": server, "fdfed-client": client}


def unit(path: Path) -> configparser.ConfigParser:
    # Some keys of a unit may stand more than once, such as SystemCallFilter.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_with_options_that_it_has(path: Path) -> None:
    program, *words = shlex.split(unit(path)["Service"]["ExecStart"])
    command: click.Command = typer.main.get_command(APPS[Path(program).name])
    if isinstance(command, click.Group) and not words[0].startswith("-"):
        command = command.commands[words.pop(0)]
    parsed = command.make_parser(click.Context(command)).parse_args(args=list(words))[0]
    assert parsed["log_format"] == "json"
    assert {word for word in words if word.startswith("--")} <= {
        option for parameter in command.params for option in parameter.opts
    }


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_service_runs_without_privileges_and_closed_to_others(path: Path) -> None:
    service = unit(path)["Service"]
    assert service["User"] != "root"
    assert service["UMask"] == "0077"
    assert service["NoNewPrivileges"] == "yes"
    assert service["CapabilityBoundingSet"] == ""
    assert service["ProtectSystem"] == "strict"
    assert service["RestrictNamespaces"] == service["ProtectKernelModules"] == "yes"


def test_there_is_a_unit_for_each_side() -> None:
    assert {path.name for path in UNITS} == {"fdfed-server.service", "fdfed-client@.service"}


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_service_that_hangs_or_is_slow_to_stop_is_not_left_to_itself(path: Path) -> None:
    service = unit(path)["Service"]
    assert service["WatchdogSec"] == "15min"
    assert service["Restart"] == "on-failure"
    drain = SiteConfig.model_fields["drain_seconds"].default
    least = 2 * drain if path.name.startswith("fdfed-client") else 0
    assert int(service["TimeoutStopSec"]) > least

"""Assembles the command `fdfed-server`."""

from __future__ import annotations

import sys

import typer

from fdfed.process.terminal import run_command
from fdfed_server.cli import roster
from fdfed_server.cli.advise import advise
from fdfed_server.cli.provision import provision
from fdfed_server.cli.release import release
from fdfed_server.cli.start import start
from fdfed_server.cli.status import status
from fdfed_server.cli.withdraw import withdraw

app = typer.Typer(
    help="The coordinator of a federation: it sees weights and prototypes, never an image.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(provision)
app.command()(start)
app.command()(status)
app.command()(withdraw)
app.command()(release)
app.command()(advise)
app.add_typer(roster.app, name="roster")


def main() -> None:
    """The entry point of the command."""
    sys.exit(run_command(app))

"""Assembles the command `fdfed`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fdfed import __version__
from fdfed.cli.advise import advise
from fdfed.cli.audit import app as audit
from fdfed.cli.data import app as data
from fdfed.cli.export import export
from fdfed.cli.model import app as model
from fdfed.cli.predict import predict
from fdfed.cli.simulate import simulate
from fdfed.cli.study import study
from fdfed.process.terminal import run_command

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(simulate)
app.command()(predict)
app.command()(export)
app.command()(advise)
app.command()(study)
app.add_typer(audit, name="audit")
app.add_typer(data, name="data")
app.add_typer(model, name="model")


def _print_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"fdfed {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Federated segmentation of medical images: hospitals share prototypes, never images.

    Try it on built-in phantoms: fdfed simulate --sites tnbc,monuseg --rounds 6 --out runs/first
    """


def main() -> None:
    """The entry point of the command."""
    sys.exit(run_command(app))

"""`fdfed audit`: is a log as it was written, and its lines for another system."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Verify and export audit logs.")

Log = Annotated[
    Path, typer.Argument(metavar="PATH", help="An audit.log, or the state folder that holds it.")
]


@app.command()
def verify(
    path: Log,
    key: Annotated[
        list[str] | None,
        typer.Option(
            help="Public key that may have signed the log, in hexadecimal (signing_public_key in "
            "roster.json). Without it the log's own word is taken, and the key shown."
        ),
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="A hash noted at an earlier time: the log must hold it.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Earlier files have been put into an archive.")
    ] = False,
) -> None:
    """Find any edit, deletion, reorder or truncation of an audit log. Exit code 5 if there is one.

    Note the hash that is shown where this machine cannot reach it, and give it with --head later:
    then even a log that was put back whole to an earlier day is found.
    """
    from rich.console import Console

    from fdfed.audit import verify as check
    from fdfed.errors import RefusedByPolicy

    verdict = check(path, keys=key, head=head, partial=partial)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{verdict.lines} lines, the last with the hash", verdict.head)
    for signer in verdict.keys:
        console.print("signed by the key", signer, "" if key else "(compare it with the roster)")
    for note in verdict.notes:
        console.print("note:", note, markup=False)
    if not verdict.sound:
        raise RefusedByPolicy(
            f"{path} is not as it was written:\n  " + "\n  ".join(verdict.findings)
        )
    console.print("[green]ok[/green]: nothing was edited, removed, reordered or cut off")


@app.command()
def export(
    path: Log,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"],
            help="Lines of this time (UTC) or later only.",
        ),
    ] = None,
) -> None:
    """Print the lines of an audit log as JSON, for a SIEM."""
    from fdfed.audit import exported

    for line in exported(path, since=since):
        typer.echo(line)

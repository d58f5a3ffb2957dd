"""`fdfed-client --site NAME`: the hospital's agent."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Literal

import click
import typer

from fdfed.process.terminal import run_command
from fdfed_client.cli.check import check
from fdfed_client.cli.configured import site_config
from fdfed_client.cli.enrol import enrol
from fdfed_client.cli.plan import ask_at_terminal, is_attended, plan
from fdfed_client.cli.record import record

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
app.command()(enrol)
app.command()(check)
app.command()(plan)
app.command()(record)


@app.callback(invoke_without_command=True)
def agent(
    context: typer.Context,
    site: Annotated[
        str | None, typer.Option(help="This hospital's name, as in its site.toml.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="The hospital's site.toml. Default: site.toml here, else "
            "federation/sites/SITE/site.toml."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder that holds SITE/images and SITE/masks.")
    ] = None,
    phantoms: Annotated[
        bool, typer.Option("--phantoms", help="Built-in phantoms instead of images, for a trial.")
    ] = False,
    approve: Annotated[
        bool,
        typer.Option(
            "--approve",
            help="Train for a run plan only when a person has approved it: asks at a terminal, "
            "else waits for `fdfed-client plan --approve`.",
        ),
    ] = False,
    device: Annotated[
        Literal["auto", "cuda", "cpu"] | None, typer.Option(help="Where to train.")
    ] = None,
    with_local_baseline: Annotated[
        bool,
        typer.Option(
            "--with-local-baseline",
            help="Also train a model on this hospital's images alone, in idle time; the local "
            "report then says whether joining helped. Nobody else is told.",
        ),
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="CPU threads; with 1, results repeat bit for bit. Default: all cores."
        ),
    ] = None,
    watch_bind: Annotated[
        str | None,
        typer.Option(
            help="Address of metrics, health and console, whatever site.toml says; in a container "
            "0.0.0.0."
        ),
    ] = None,
    log_format: Annotated[
        Literal["text", "json"], typer.Option(help="json: one object a line, for services.")
    ] = "text",
    quiet: Annotated[bool, typer.Option("--quiet", help="Warnings and errors only.")] = False,
) -> None:
    """Serve the coordinator of a federation with this hospital's images, which stay here.

    The agent connects outward only, runs no code that it is sent, and goes on until it is stopped
    (Ctrl-C or SIGTERM). What it sends is listed in audit.log in its state folder.
    """
    if context.invoked_subcommand is not None:
        return
    if site is None:
        raise click.UsageError("give this hospital's name with --site, or a command", ctx=context)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    from fdfed.process.kept_memory import keep_freed_memory
    from fdfed.process.lean_monai import spare_optional_parts

    keep_freed_memory()
    spare_optional_parts()
    import torch
    from rich.console import Console

    from fdfed.files.state_format import AGENT
    from fdfed.files.state_lock import only_process
    from fdfed.process.terminal import configure_logging
    from fdfed_client.agent import run_agent
    from fdfed_client.progress import step_bar

    shown = Console()
    console = shown if shown.is_terminal and log_format == "text" and not quiet else None
    configure_logging(log_format, quiet=quiet, console=console)
    loaded = site_config(site, config)
    if device is not None:
        loaded = loaded.model_copy(update={"device": device})
    if watch_bind is not None:
        watched = {"metrics_bind": watch_bind, "console_bind": watch_bind}
        loaded = loaded.model_copy(update=watched)
    if with_local_baseline:
        loaded = loaded.model_copy(update={"local_baseline": True})
    if threads is not None:
        torch.set_num_threads(threads)
    lock = only_process(
        loaded.state,
        form=AGENT,
        remedy=f"stop it: {site} has one agent at a time. A copy of its folder is no second site",
    )
    with lock, step_bar(console) as on_step:
        run_agent(
            loaded,
            data=data,
            phantoms=phantoms,
            stop=stop,
            approve=approve,
            ask=(lambda plan: ask_at_terminal(plan, stop)) if approve and is_attended() else None,
            on_step=on_step,
        )


def main() -> None:
    """The entry point of the command."""
    sys.exit(run_command(app))

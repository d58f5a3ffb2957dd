"""`fdfed-server start`: runs a federation to its end, or goes on with it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

DEFAULT_CONFIG = Path("federation/server/federation.toml")


def start(
    config: Annotated[
        Path, typer.Option(help="The coordinator's federation.toml.")
    ] = DEFAULT_CONFIG,
    state: Annotated[
        Path | None, typer.Option(help="Folder of everything that a restart needs.")
    ] = None,
    watch_bind: Annotated[
        str | None,
        typer.Option(
            help="Address of metrics, health and console, whatever federation.toml says; in a "
            "container 0.0.0.0."
        ),
    ] = None,
    stay: Annotated[
        bool,
        typer.Option(
            "--stay",
            help="When the run is complete, go on serving metrics and console until "
            "stopped, for whatever would start an ended service again.",
        ),
    ] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard's curves; an optional extra.")
    ] = None,
    log_format: Annotated[
        Literal["text", "json"], typer.Option(help="json: one object a line, for services.")
    ] = "text",
    quiet: Annotated[bool, typer.Option("--quiet", help="Warnings and errors only.")] = False,
) -> None:
    """Start the coordinator: it waits for the sites, trains with them, and writes the results.

    Stop it with Ctrl-C at any time; the same command goes on after the last complete round.
    """
    from rich.console import Console

    from fdfed.process.lean_monai import spare_optional_parts

    spare_optional_parts()
    from fdfed.process.terminal import configure_logging, scores_table
    from fdfed_server.config import FederationConfig
    from fdfed_server.coordinator import run_coordinator
    from fdfed_server.event_log import EventLog
    from fdfed_server.progress import ProgressBars
    from fdfed_server.tensorboard import tensorboard_observers

    loaded = FederationConfig.load(config).on_this_machine(state=state, watch_bind=watch_bind)
    console = Console()
    talks = not quiet and log_format == "text"
    curves = tensorboard_observers(tensorboard)
    with ExitStack() as stack:
        for writer in curves:
            stack.enter_context(writer)
        if talks and console.is_terminal:
            configure_logging(log_format, quiet=True, console=console)
            bars = stack.enter_context(ProgressBars(console))
            results = run_coordinator(loaded, observers=[bars, *curves], stay=stay)
        else:
            configure_logging(log_format, quiet=quiet)
            results = run_coordinator(loaded, observers=[EventLog(), *curves], stay=stay)
    if talks:
        console.print(scores_table(results))
        report = loaded.server.state / "results" / "report.html"
        console.print(f"Report: {report}", soft_wrap=True, markup=False)

"""`fdfed-client plan`, and the question that `--approve` asks: what a run does, and yes or no."""

from __future__ import annotations

import select
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fdfed.errors import InvalidInput, RefusedByPolicy
from fdfed_client.cli.configured import site_config

if TYPE_CHECKING:
    from rich.table import Table

    from fdfed.config import RunPlan


def plan(
    site: Annotated[str, typer.Option(help="This hospital's name, as in its site.toml.")],
    config: Annotated[Path | None, typer.Option(help="The hospital's site.toml.")] = None,
    approve: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="Approve the plan that is shown; its whole hash."),
    ] = None,
) -> None:
    """Show the run plan that the coordinator asked for last, in words, and approve it.

    An agent that waits for approval goes on at once. What is approved is this plan alone: a plan
    that differs in anything has another hash.
    """
    from rich.console import Console

    from fdfed.files.state_format import AGENT
    from fdfed_client.plan_approval import PlanRecords

    loaded = site_config(site, config)
    AGENT.check(loaded.state)
    records = PlanRecords(loaded.state)
    asked = records.last()
    if asked is None:
        raise InvalidInput(
            f"no run plan has come to {site} yet; start the agent, and the coordinator sends it"
        )
    console = Console(highlight=False)
    console.print(_table(asked))
    if approve is None:
        pinned = asked.digest in (loaded.policy.approved_plans or ())
        done = pinned or records.has_approved(asked.digest)
        if done:
            console.print("approved")
        else:
            console.print("not approved by a person here. To approve it:")
            settings = "" if config is None else f" --config {config}"
            command = f"fdfed-client plan --site {site}{settings} --approve {asked.digest}"
            # In one line, however narrow the terminal: it is there to be copied.
            console.print(command, soft_wrap=True, markup=False)
        return
    if approve != asked.digest:
        raise RefusedByPolicy(
            f"the hash {approve[:16]}… is not that of the plan that is shown; nothing is approved. "
            "Compare the two, and give the whole hash"
        )
    records.approve(asked.digest)
    console.print("[green]approved[/green]")


def is_attended() -> bool:
    """Whether a person can be asked at this terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask_at_terminal(asked: RunPlan, stop: threading.Event) -> bool:
    """Shows the plan, and waits for yes or no, or to be told to stop."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_table(asked))
    console.print("Train under this plan with this hospital's images? Type yes or no:")
    while not stop.is_set():
        ready, _, _ = select.select([sys.stdin], [], [], 0.5)
        if not ready:
            continue
        answer = sys.stdin.readline()
        if answer.strip().lower() == "yes":
            return True
        if not answer or answer.strip().lower() == "no":
            return False
        console.print("Please type yes or no:")
    return False


def _table(asked: RunPlan) -> Table:
    from rich.table import Table

    from fdfed_client.plan_words import plan_in_words

    table = Table(title="Run plan", title_justify="left", show_header=False, show_lines=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in plan_in_words(asked):
        table.add_row(heading, text)
    return table

"""`fdfed-server status`: what the coordinator is doing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fdfed_server.cli.start import DEFAULT_CONFIG

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fdfed_server.status import SiteStatus, Status


def status(
    config: Annotated[
        Path, typer.Option(help="The coordinator's federation.toml.")
    ] = DEFAULT_CONFIG,
    state: Annotated[Path | None, typer.Option(help="The coordinator's state folder.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it until Ctrl-C.")] = False,
) -> None:
    """Show the round, the sites and their Dice.

    Exit code 4 when the coordinator died and was not started again.
    """
    from rich.console import Console
    from rich.live import Live

    from fdfed.errors import ConnectionFailed
    from fdfed_server.config import FederationConfig
    from fdfed_server.status import read_status

    folder = state or FederationConfig.load(config).server.state
    if watch:
        with Live(_render(read_status(folder)), refresh_per_second=2) as live:
            while True:
                time.sleep(0.5)
                live.update(_render(read_status(folder)))
    found = read_status(folder)
    Console().print(_render(found))
    if not (found.fresh or found.ended):
        raise ConnectionFailed(
            f"the coordinator of {folder} is not running, though it did not stop in order; start "
            "it again, it goes on after the last complete round"
        )


def _render(status: Status) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    running = status.activity if status.fresh else f"not running (last: {status.activity})"
    dice = "" if status.mean_val_dice is None else f", validation Dice {status.mean_val_dice:.3f}"
    phantoms = " on phantoms" if status.phantoms else ""
    head = Text(
        f"{running}\nround {status.completed_rounds} of {status.rounds} complete, phase "
        f"{status.phase}, strategy {status.strategy}{phantoms}{dice}"
    )
    table = Table(
        "site", "stream", "training images", "last round", "validation Dice", "terms", "note"
    )
    private = any(site.epsilon is not None for site in status.sites.values())
    if private:
        table.add_column("ε spent")
    for name, site in status.sites.items():
        table.add_row(
            name,
            "open" if site.online else "–",
            "–" if site.num_train is None else str(site.num_train),
            str(site.last_round or "–"),
            "–" if site.val_dice is None else f"{site.val_dice:.3f}",
            _terms(site),
            Text(site.note),
            *(["–" if site.epsilon is None else f"{site.epsilon:.3g}"] if private else []),
        )
    return Group(head, *(Text(notice, style="yellow") for notice in status.notices), table)


def _terms(site: SiteStatus) -> str:
    """Of its last round: steps with a cross-site term, and how late the replies were."""
    if site.answered is None:
        return "–"
    text = f"{site.answered} of {site.answered + (site.dropped or 0)}"
    return f"{text}, {site.staleness_mean:.1f} steps late" if site.staleness_mean else text

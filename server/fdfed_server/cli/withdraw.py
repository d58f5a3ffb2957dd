"""`fdfed-server withdraw`: a site leaves a run, with what it gave."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fdfed.errors import InvalidInput
from fdfed_server.cli.start import DEFAULT_CONFIG

if TYPE_CHECKING:
    from fdfed_server.config import ServerConfig
    from fdfed_server.withdrawal import Withdrawal


def withdraw(
    site: Annotated[str, typer.Argument(help="Name of the site that leaves.")],
    config: Annotated[
        Path, typer.Option(help="The coordinator's federation.toml.")
    ] = DEFAULT_CONFIG,
    state: Annotated[Path | None, typer.Option(help="The coordinator's state folder.")] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start anew, instead of going back to before it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take a site, and all that it gave, out of a stopped run.

    Its share cannot be subtracted from trained weights. So the run goes back to the last round
    before the site took part, or with --restart starts anew. First remove the site from the roster:
    fdfed-server roster remove SITE.
    """
    from fdfed.audit import AuditLog
    from fdfed.files.state_format import COORDINATOR
    from fdfed.files.state_lock import only_process
    from fdfed.membership.plan_signature import read_plan_key
    from fdfed_server.config import FederationConfig
    from fdfed_server.withdrawal import plan_withdrawal
    from fdfed_server.withdrawal import withdraw as carry_out

    loaded = FederationConfig.load(config)
    folder = state or loaded.server.state
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not the state folder of a coordinator; name it: --state")
    _check_removed(site, loaded.server, loaded.run.sites)
    key = read_plan_key(loaded.server.plan_key)
    lock = only_process(
        folder, form=COORDINATOR, remedy="stop it first; a running one would write the state back"
    )
    with lock:
        found = plan_withdrawal(folder / "run", site, restart=restart)
        _say_what_happens(found)
        if not yes and not (sys.stdin.isatty() and typer.confirm("Go on?")):
            raise InvalidInput("nothing was changed; say yes at a terminal, or give --yes")
        with AuditLog(folder / "audit.log", key=key) as audit:
            carry_out(folder, found, audit)
    typer.echo(f"{site} is withdrawn; `fdfed-server start` goes on without it")


def _check_removed(site: str, server: ServerConfig, named: tuple[str, ...]) -> None:
    """The next start must not bring it back."""
    from fdfed.membership.roster import SignedRoster

    roster = SignedRoster.load(server.roster, public_key=server.consortium_key).roster
    if site in roster.sites:
        raise InvalidInput(
            f"the roster still lists {site}, which would take part again at the next start; first "
            f"`fdfed-server roster remove {site}`, and bring the new roster here"
        )
    if site in named:
        raise InvalidInput(f"[run] sites in federation.toml names {site}; remove it there first")


def _say_what_happens(found: Withdrawal) -> None:
    from fdfed_server.withdrawal import CANNOT_UNDO

    typer.echo(f"{found.site} took part from round {found.first_round} on.")
    if found.back_to is None:
        typer.echo("The run starts anew: all its rounds, its model and its scores are removed.")
    else:
        kept = found.back_to.completed_rounds
        typer.echo(f"The run goes back to round {kept}, the last one that {found.site} had no part")
        typer.echo("in; the rounds after it, the model and the results are removed.")
    typer.echo(f"{found.lost_rounds} round(s) will be trained again. What cannot be undone:")
    for line in CANNOT_UNDO:
        typer.echo(f"  - {line}")

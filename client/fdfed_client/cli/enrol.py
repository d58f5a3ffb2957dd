"""`fdfed-client enrol`: this hospital's keys, its request, and its place in the federation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fdfed.errors import ConnectionFailed

if TYPE_CHECKING:
    from rich.console import Console

    from fdfed_client.enrolment import SiteFolder
    from fdfed_client.enrolment_relay import EnrolmentRelay

_POLL_SECONDS = 2.0


def enrol(
    pack: Annotated[Path, typer.Argument(help="The enrolment pack: a folder with site.toml.")],
    complete: Annotated[
        Path | None,
        typer.Option(help="The consortium's answer, if it came as a file."),
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Ask for a new certificate for the keys that are here.")
    ] = False,
    relay: Annotated[
        bool,
        typer.Option(help="Leave the request at the coordinator, and fetch the answer there."),
    ] = True,
    wait: Annotated[
        float, typer.Option(min=0, help="Minutes to wait for the answer; 0 only looks once.")
    ] = 0.0,
) -> None:
    """Join a federation: make this hospital's keys here, and ask the consortium to list them.

    Private keys never leave the folder. Give the fingerprint that is shown to the consortium by
    telephone; its signers compare it. Give the same command again to fetch the answer.
    """
    from rich.console import Console

    from fdfed_client.enrolment import ANSWER, SiteFolder

    console = Console(soft_wrap=True, markup=False, highlight=False)
    site = SiteFolder.open(pack)
    if complete is not None:
        _install(console, site, complete.read_bytes(), str(complete))
        return
    if site.is_enrolled and not renew and not (pack / "request.json").exists():
        console.print(f"{site.config.site} is enrolled; --renew asks for a new certificate")
        return
    request = site.request(renewal=renew)
    if (pack / ANSWER).exists():
        _install(console, site, (pack / ANSWER).read_bytes(), str(pack / ANSWER))
        return
    console.print(f"{site.config.site}: fingerprint {request.fingerprint}")
    console.print("Tell it to the consortium by telephone; never take it from a message.")
    answer = _relayed(console, site, minutes=wait) if relay else None
    if answer is not None:
        _install(console, site, answer, "the answer at the coordinator")
        return
    console.print(f"\nThe request is in {pack / 'request.json'}; it holds nothing secret.")
    console.print("When the consortium has answered, give the same command again")
    console.print("(or with --complete FILE, if the answer came as a file).")


def _relayed(console: Console, site: SiteFolder, *, minutes: float) -> bytes | None:
    """The answer by way of the coordinator; None while there is none."""
    from fdfed_client.enrolment_relay import EnrolmentRelay

    desk = EnrolmentRelay(site.config, site.relay_key)
    try:
        desk.leave(site.request())
        console.print(f"The request waits at {site.config.fleet_address} for the consortium.")
        return _await_answer(desk, site, time.monotonic() + 60 * minutes)
    except ConnectionFailed as err:
        console.print(f"The coordinator could not relay it: {err}")
        return None
    finally:
        desk.close()


def _await_answer(desk: EnrolmentRelay, site: SiteFolder, until: float) -> bytes | None:
    while True:
        answer = desk.answer()
        if answer is not None and site.is_news(answer):
            return answer
        if time.monotonic() >= until:
            return None
        time.sleep(_POLL_SECONDS)


def _install(console: Console, site: SiteFolder, answer: bytes, source: str) -> None:
    roster = site.complete(answer, source=source)
    name = site.config.site
    others = [other for other in roster.roster.sites if other != name]
    console.print(
        f"{name} is enrolled, under roster version {roster.roster.version} signed by "
        f"{roster.policy.summary}, with {', '.join(others) or 'no other site yet'}."
    )
    console.print(f"  fdfed-client --site {name} --config {site.folder / 'site.toml'} --data DATA")

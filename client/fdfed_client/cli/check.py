"""`fdfed-client check`: is this hospital ready, and if not, what is to be done."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fdfed_client.cli.configured import site_config


def check(
    site: Annotated[str, typer.Option(help="This hospital's name, as in its site.toml.")],
    config: Annotated[Path | None, typer.Option(help="The hospital's site.toml.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder that holds SITE/images and SITE/masks.")
    ] = None,
    phantoms: Annotated[
        bool, typer.Option("--phantoms", help="Built-in phantoms instead of images.")
    ] = False,
) -> None:
    """Look at everything that can keep this hospital from taking part: ok, or what to do.

    Keys, certificate and roster; name, proxy, ports, TLS and clock; images, memory and disk; the
    hospital's own rules. Nothing is sent but a greeting. Exit code 3 for images, 4 for connection
    or identity, 5 for rules.
    """
    from rich.console import Console

    from fdfed_client.check import exit_code_of, run_checks, show

    loaded = site_config(site, config)
    results = show(run_checks(loaded, data=data, phantoms=phantoms), Console(highlight=False))
    code = exit_code_of(results)
    if code:
        raise typer.Exit(code)

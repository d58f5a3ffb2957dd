"""`fdfed-client record`: this hospital's data-protection record, filled from what is known here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fdfed.errors import InvalidInput
from fdfed_client.cli.configured import site_config


def record(
    site: Annotated[str, typer.Option(help="This hospital's name, as in its site.toml.")],
    config: Annotated[Path | None, typer.Option(help="The hospital's site.toml.")] = None,
    out: Annotated[Path | None, typer.Option(help="New Markdown file; default: print it.")] = None,
) -> None:
    """Write the data-protection record: what is processed, why, where and how long.

    Filled from the run plan that was asked for last, this hospital's rules and its audit log, which
    is verified first (exit code 5 if it was altered). What no program can know is marked FILL IN.
    """
    from fdfed_client.data_protection import data_protection_record

    text = data_protection_record(site_config(site, config))
    if out is None:
        typer.echo(text, nl=False)
        return
    if out.exists():
        raise InvalidInput(
            f"{out} exists already, and may hold what was filled in; give a new file"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    typer.echo(f"{out}: complete what is marked FILL IN")

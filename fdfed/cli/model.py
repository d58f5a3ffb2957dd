"""`fdfed model`: is a model the one that a federation released."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Verify a released model.")


@app.callback()
def _group() -> None:
    """Verify a released model."""


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of the release.")],
    key: Annotated[
        str,
        typer.Option(
            help="Public key of the federation, in hexadecimal (plan_key in roster.json); not from "
            "whoever brought the folder."
        ),
    ],
) -> None:
    """Find any change of a released model or its card. Exit code 4 if there is one."""
    from rich.console import Console

    from fdfed.release import CARD_TEXT, verify_release

    release = verify_release(folder, public_key=key)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(f"ok: released {release.released:%Y-%m-%d %H:%M} UTC")
    console.print(f"model {release.model_sha256}; its card: {folder / CARD_TEXT}")

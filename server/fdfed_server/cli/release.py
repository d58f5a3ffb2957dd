"""`fdfed-server release`: a model leaves the coordinator approved, signed, and with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fdfed_server.cli.start import DEFAULT_CONFIG


def release(
    out: Annotated[Path, typer.Option(help="New folder for model, card and signature.")],
    config: Annotated[
        Path, typer.Option(help="The coordinator's federation.toml.")
    ] = DEFAULT_CONFIG,
    state: Annotated[Path | None, typer.Option(help="The coordinator's state folder.")] = None,
    approve: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="Approve the model that is shown; its whole hash."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Private key that signs, as `roster key` makes it; default: plan_key."),
    ] = None,
) -> None:
    """Show the card of a finished run's model, and release the model once a person approves it.

    Without --approve nothing is written. Whoever receives the folder checks it with
    `fdfed model verify` or `fdfed predict --verify-key`.
    """
    from rich.console import Console

    from fdfed.audit import AuditLog
    from fdfed.errors import InvalidInput
    from fdfed.files.state_format import COORDINATOR
    from fdfed.membership.plan_signature import read_plan_key
    from fdfed_server.config import FederationConfig
    from fdfed_server.release import candidate
    from fdfed_server.release import release as carry_out

    server = FederationConfig.load(config).server
    folder = state or server.state
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not the state folder of a coordinator; name it: --state")
    COORDINATOR.check(folder)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    found = candidate(folder)
    console.print(found.text)
    if approve is None:
        console.print(f"not released; approve it with --approve {found.model_sha256}")
        return
    plan_key = read_plan_key(server.plan_key)
    signing = plan_key if key is None else read_plan_key(key)
    with AuditLog(folder / "audit.log", key=plan_key) as audit:
        carry_out(found, out, approved=approve, key=signing, audit=audit)
    public = signing.public_key().public_bytes_raw().hex()
    console.print(f"released: {out}, signed by the key {public}")

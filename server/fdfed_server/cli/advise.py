"""`fdfed-server advise`: how near the sites of a run are to one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fdfed_server.cli.start import DEFAULT_CONFIG


def advise(
    base: Annotated[str, typer.Option(help="The site that asks.")],
    out: Annotated[Path, typer.Option(help="Folder for advice.json.")] = Path("runs/advice"),
    config: Annotated[
        Path, typer.Option(help="The coordinator's federation.toml.")
    ] = DEFAULT_CONFIG,
    state: Annotated[Path | None, typer.Option(help="The coordinator's state folder.")] = None,
) -> None:
    """Show how near the sites of a run are to a base, tap by tap, from the distances of its rounds.

    The coordinator reads no prototype, and foretells no Dice. Standardised shifts, sites that are
    not in the run yet, and forecasts need the sites' summaries: fdfed advise.
    """
    from rich.console import Console
    from rich.table import Table

    from fdfed.errors import InvalidInput
    from fdfed_server.advice import advise as make_advice
    from fdfed_server.advice import write_pair_advice
    from fdfed_server.config import FederationConfig
    from fdfed_server.run_state import load_state

    folder = state or FederationConfig.load(config).server.state
    found = load_state(folder / "run")
    if found is None:
        raise InvalidInput(f"{folder} holds no run; name the coordinator's state folder: --state")
    advice = make_advice(found, base)
    write_pair_advice(out / "advice.json", advice)
    table = Table(title=f"Gap from {base} in round {advice.round}, in nats")
    taps = tuple(dict.fromkeys(tap for gaps in advice.gaps.values() for tap in gaps))
    for column in ("site", *taps, "mean size"):
        table.add_column(column, justify="left" if column == "site" else "right")
    for site, size in advice.ranking.items():
        gaps = advice.gaps.get(f"{base} {site}") or advice.gaps[f"{site} {base}"]
        cells = [f"{gaps[tap]:+.2f}" if tap in gaps else "–" for tap in taps]
        table.add_row(site, *cells, f"{size:.2f}")
    console = Console()
    console.print(table)
    console.print(f"Advice: {out / 'advice.json'}", soft_wrap=True, markup=False)

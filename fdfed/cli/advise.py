"""`fdfed advise`: shall we add this hospital?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fdfed.errors import InvalidInput

if TYPE_CHECKING:
    from rich.table import Table

    from fdfed.advisor import Advice, SiteSummary


def advise(
    base: Annotated[
        str | None, typer.Option(help="The site that asks. Left out: summaries alone are written.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="The model file of the base, or of the federation; wanted with --data."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with one folder per site, of those that are here.")
    ] = None,
    sites: Annotated[
        str | None, typer.Option(help="Which folders of --data, such as a,b; default: all.")
    ] = None,
    summaries: Annotated[
        list[Path] | None,
        typer.Option(help="Summary of another site, as it made it by this command; repeatable."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="calibration.json of `fdfed study advisor`; without it, no forecast."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split: training images alone are read.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for advice.json, its figure and the summaries.")
    ] = Path("runs/advice"),
) -> None:
    """Say how far candidate sites are from a base, tap by tap, and what adding each may bring.

    From prototypes and their validity alone: a site runs the base's model over its own images and
    hands on OUT/summaries/SITE.json, which holds means over patients and no image's own. It needs
    no training, and no candidate's weights.
    """
    # Slow to import; --help must not wait for them.
    from rich.console import Console

    from fdfed.advisor import advise as make_advice
    from fdfed.advisor import load_calibration, load_summary, write_advice, write_summary
    from fdfed.advisor.figure import draw_advice

    known = load_calibration(calibration) if calibration is not None else None
    found = [load_summary(path) for path in summaries or ()]
    if data is not None:
        if model is None:
            raise InvalidInput("--data needs --model: prototypes are what a network makes of them")
        own = _summaries(data, model, sites, seed)
        for summary in own:
            write_summary(out / "summaries" / f"{summary.site}.json", summary)
        found = own + found
    if not found:
        raise InvalidInput("there is nothing to compare: give --data with --model, or --summaries")
    console = Console()
    if base is None:
        console.print(f"Summaries: {out / 'summaries'}", soft_wrap=True, markup=False)
        return
    advice = make_advice(base, found, calibration=known)
    write_advice(out / "advice.json", advice)
    draw_advice(out / "advice.svg", advice)
    console.print(shift_table(advice))
    for line in forecasts(advice):
        console.print(line, markup=False, highlight=False)
    console.print(f"Advice: {out / 'advice.json'}", soft_wrap=True, markup=False)


def shift_table(advice: Advice) -> Table:
    """The candidates from near to far, with the shift at each tap."""
    from rich.table import Table

    from fdfed.advisor.advice import shift_of

    title = f"Shift from {advice.base}, in scatters between patients"
    table = Table(title=title + (" (phantoms)" if advice.phantoms else ""))
    taps = tuple(dict.fromkeys(tap for found in advice.shifts.values() for tap in found))
    for column in ("site", "patients", *taps, "in all"):
        table.add_column(column, justify="left" if column == "site" else "right")
    for candidate in advice.ranking:
        found = shift_of(advice, advice.base, candidate.site)
        cells = [f"{found[tap].size:.2f}" if tap in found else "–" for tap in taps]
        patients = str(advice.patients[candidate.site])
        table.add_row(candidate.site, patients, *cells, f"{candidate.shift:.2f}")
    return table


def forecasts(advice: Advice) -> list[str]:
    """A line for each candidate: the forecast, or why there is none."""
    lines = []
    for candidate in advice.ranking:
        found = candidate.forecast
        said = candidate.note
        if found is not None:
            said = (
                f"Dice at {advice.base} changes by {found.change:+.3f}, 80 % interval "
                f"{found.low:+.3f} to {found.high:+.3f} ({candidate.note})"
            )
        lines.append(f"{candidate.site}: {said}.")
    return lines


def _summaries(data: Path, model: Path, sites: str | None, seed: int) -> list[SiteSummary]:
    import torch

    from fdfed.advisor import summarise
    from fdfed.data import open_site, site_folders
    from fdfed.training.model_file import load_model

    network, header = load_model(model, torch.device("cpu"))
    if sites is None:
        folders = site_folders(data)
    else:
        folders = tuple(data / name.strip() for name in sites.split(","))
    found = []
    for folder in folders:
        name = folder.name
        images = open_site(
            name,
            folder.parent,
            size=header.size,
            in_channels=header.in_channels,
            seed=seed,
            batch_size=8,
            augment=False,
            crop=header.crop,
        )
        if images.phantoms != header.phantoms:
            kinds = {True: "phantoms", False: "images"}
            raise InvalidInput(
                f"{model} was trained on {kinds[header.phantoms]}, and {name} holds "
                f"{kinds[images.phantoms]}; compare like with like"
            )
        found.append(
            summarise(
                network,
                images.evaluation_batches("train"),
                site=name,
                patients=images.patients_of("train"),
                phantoms=images.phantoms,
            )
        )
    return found

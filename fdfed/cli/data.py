"""`fdfed data`: what is in a site's folder, and whether it can be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fdfed.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from fdfed.data import Likeness, SiteSurvey

app = typer.Typer(no_args_is_help=True, help="Check a site's images and masks.")

_SHOWN: Final = 10
"""Pairs of like images that are listed; --json has all."""


@app.callback()
def _commands() -> None:
    """Check a site's images and masks."""


@app.command()
def check(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A site's folder, or a folder with one a site in it."),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON, without a table.")
    ] = False,
) -> None:
    """Validate images, masks and patients, and show what they are like.

    Counts, sizes, foreground, intensities, and images that look nearly the same; those of two
    patients may put one image into training and test. Exit code 3 if a site cannot be used as it
    is. What is shown names files and patients: it is for the site alone.
    """
    # Slow to import; --help must not wait for them.
    from rich.console import Console

    from fdfed.data.survey import as_document, likenesses, site_folders

    console = Console()
    surveys = _surveyed(site_folders(folder), Console(stderr=True))
    alike = likenesses(surveys)
    if as_json:
        typer.echo(json.dumps(as_document(surveys, alike), indent=2, ensure_ascii=False))
    else:
        _show(console, surveys, alike)
    unusable = [survey for survey in surveys if not survey.report.usable]
    if unusable:
        raise DataError("\n".join(_refusal(survey) for survey in unusable))


def _surveyed(folders: Sequence[Path], progress_on: Console) -> list[SiteSurvey]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from fdfed.data.survey import survey_site

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    hidden = not progress_on.is_terminal
    with Progress(*columns, console=progress_on, transient=True, disable=hidden) as bar:

        def surveyed(folder: Path) -> SiteSurvey:
            task = bar.add_task(folder.resolve().name, total=None)

            def read(done: int, files: int) -> None:
                bar.update(task, completed=done, total=files)

            return survey_site(folder, progress=read)

        return [surveyed(folder) for folder in folders]


def _show(console: Console, surveys: Sequence[SiteSurvey], alike: Sequence[Likeness]) -> None:
    from fdfed.cli.data_table import likeness_table, notes, survey_tables

    for table in survey_tables(surveys, alike):
        console.print(table)
    for note in notes(surveys, alike):
        console.print(f"note: {note}", soft_wrap=True, markup=False, highlight=False)
    leaks = [entry for entry in alike if entry.across_patients]
    if leaks:
        console.print(likeness_table(leaks[:_SHOWN], len(leaks)))
    if all(survey.report.usable for survey in surveys):
        console.print("[green]ok[/green]: nothing keeps these images from being used")


def _refusal(survey: SiteSurvey) -> str:
    try:
        survey.report.raise_findings()
    except DataError as err:
        return str(err)
    return ""

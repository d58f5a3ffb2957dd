"""The tables of `fdfed data check`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Final

from rich.table import Table

from fdfed.data.survey import SQUARE, ImageFacts, Likeness, SiteSurvey

_SITES: Final = 4
"""Sites side by side in one table; more would not fit on a terminal of 80 columns."""


def survey_tables(surveys: Sequence[SiteSurvey], alike: Sequence[Likeness]) -> Iterator[Table]:
    """A column a site, in tables of a few sites each. Foreground is the median over images with its
    range, grey level mean ± standard deviation; `docs/DATA.md` explains each row."""
    for start in range(0, len(surveys), _SITES):
        table = Table(title="Images and masks", title_justify="left")
        table.add_column("")
        chosen = surveys[start : start + _SITES]
        for survey in chosen:
            table.add_column(survey.site, justify="right", overflow="fold")
        columns = [_column(survey, alike) for survey in chosen]
        for heading in columns[0]:
            table.add_row(heading, *(column[heading] for column in columns))
        yield table


def _column(survey: SiteSurvey, alike: Sequence[Likeness]) -> dict[str, str]:
    report, images = survey.report, survey.images
    mine = [e for e in alike if survey.site in (e.first[0], e.second[0])]
    leaks = sum(entry.across_patients for entry in mine)
    shares = [100 * facts.foreground for facts in images]
    return {
        "layout": survey.layout + (", phantoms" if report.phantoms else ""),
        "images": str(len(report.cases)),
        "patients": str(report.patients) if report.patients_known else "unknown",
        "smallest, px": _size(min(images, key=_area, default=None)),
        "largest, px": _size(max(images, key=_area, default=None)),
        "foreground": f"{statistics.median(shares):.1f} %" if shares else "",
        "  range": f"{min(shares):.1f}–{max(shares):.1f} %" if shares else "",
        "empty masks": str(report.empty_masks),
        "grey level": _levels(images),
        "alike pairs": str(len(mine)),
        "  two patients": f"[yellow]{leaks}[/yellow]" if leaks else "0",
        "findings": f"[red]{len(report.findings)}[/red]" if report.findings else "0",
    }


def likeness_table(leaks: Sequence[Likeness], count: int) -> Table:
    """The pairs that look like one picture of two patients, the most alike first."""
    title = "Images of two patients that look the same"
    if count > len(leaks):
        title += f" ({len(leaks)} of {count}; --json has all)"
    table = Table(title=title, title_justify="left")
    table.add_column("image", overflow="fold")
    table.add_column("and", overflow="fold")
    table.add_column("correlation", justify="right")
    for entry in leaks:
        table.add_row("/".join(entry.first), "/".join(entry.second), f"{entry.correlation:.3f}")
    return table


def notes(surveys: Sequence[SiteSurvey], alike: Sequence[Likeness]) -> Iterator[str]:
    """What a person should look at, though it keeps no image from being used."""
    for survey in surveys:
        report, images = survey.report, survey.images
        if report.cases and not report.patients_known:
            yield (
                f"{survey.site}: nothing says whose the images are, so each counts as a patient; "
                "write patients.csv if a patient has several"
            )
        if len({facts.channels for facts in images}) > 1:
            grey = sum(facts.channels == 1 for facts in images)
            yield f"{survey.site}: {grey} images are grey and {len(images) - grey} in colour"
        yield from _spacing_notes(survey)
    if any(entry.across_patients for entry in alike):
        yield (
            "look at the pairs below: if two show one patient, give both one name in patients.csv, "
            "or remove one; else one may train and the other test"
        )


def _spacing_notes(survey: SiteSurvey) -> Iterator[str]:
    spacings = [facts.spacing for facts in survey.images if facts.spacing is not None]
    if not spacings:
        return
    sides = [side for spacing in spacings for side in spacing]
    oblong = sum(max(s) > SQUARE * min(s) for s in spacings)
    yield f"{survey.site}: pixels of {min(sides):.3g} to {max(sides):.3g} mm" + (
        f", {len(survey.images) - len(spacings)} images do not say"
        if len(spacings) < len(survey.images)
        else ""
    )
    if oblong:
        yield f"{survey.site}: {oblong} images have pixels that are not square"


def _area(facts: ImageFacts) -> int:
    return facts.width * facts.height


def _size(facts: ImageFacts | None) -> str:
    return f"{facts.width} × {facts.height}" if facts else ""


def _levels(images: Sequence[ImageFacts]) -> str:
    """In percent of white, over all pixels of all images, each image weighing the same."""
    if not images:
        return ""
    mean = statistics.fmean(facts.mean for facts in images)
    square = statistics.fmean(facts.sd**2 + facts.mean**2 for facts in images)
    return f"{100 * mean:.0f} ± {100 * max(0.0, square - mean**2) ** 0.5:.0f} %"

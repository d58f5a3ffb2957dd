"""The report of a run: one HTML file that needs nothing beside it and asks nothing of a network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jinja2

from fdfed.config import RunPlan, parse
from fdfed.evaluation import figures
from fdfed.evaluation.case_pictures import CaseView, extremes
from fdfed.evaluation.figure_style import Picture
from fdfed.evaluation.joining import WORDS, Joining, answer
from fdfed.evaluation.pair_matrix import last_pairs, pair_panels
from fdfed.evaluation.privacy_text import privacy_statement, setting, what_left, what_stayed
from fdfed.evaluation.results import ImageRow, RunResults, is_known
from fdfed.files.atomic_file import write_text

NOTHING: Final = "–"
"""Stands in a table for a value that does not exist."""


@dataclass(frozen=True, slots=True)
class TapRow:
    """One tap at the end of a run."""

    name: str
    alpha: float | None
    fd: float | None
    exch: float | None


@dataclass(frozen=True, slots=True)
class JoiningRow:
    """Whether joining helped one site."""

    site: str
    sentence: str
    found: Joining


@dataclass(frozen=True, slots=True)
class Incident:
    """Something in a round that its curves do not show."""

    round: int
    what: str


def write_report(
    path: Path,
    results: RunResults,
    *,
    cases: Sequence[CaseView] | None = None,
    per_image: Sequence[ImageRow] = (),
) -> None:
    """Writes the report of `results` as one self-contained HTML file to `path`, atomically.

    Args:
        cases: scored test images with their pixels; the worst and the best of each site are
            shown. Only in a simulation or at a site, about the site's own images.
        per_image: scores of single test images, under the same condition.

    Raises:
        InvalidInput: if `results.config` is not a run plan.
    """
    write_text(path, render_report(results, cases=cases, per_image=per_image))


def render_report(
    results: RunResults,
    *,
    cases: Sequence[CaseView] | None = None,
    per_image: Sequence[ImageRow] = (),
) -> str:
    """The HTML that `write_report` writes."""
    plan = parse(RunPlan, dict(results.config), source="config in the results")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fdfed.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score=_score, bytes=_bytes, seconds=_seconds, number=_number, many=_many
    )
    return environment.get_template("report.html.j2").render(
        results=results,
        plan=plan,
        mean=_mean_over_sites(results),
        counts=_totals(results),
        charts=_charts(results, per_image),
        tap_panels=figures.tap_panels(results),
        pair_panels=pair_panels(results),
        pair_record=last_pairs(results),
        joining=[
            JoiningRow(name, answer(name, found), found) for name, found in results.joining.items()
        ],
        models=WORDS,
        taps=_tap_rows(results),
        incidents=list(_incidents(results)),
        per_image=sorted(per_image, key=_rank),
        extremes=extremes(cases or ()),
        privacy={
            "statement": privacy_statement(results),
            "setting": setting(results),
            "left": what_left(results, plan),
            "stayed": what_stayed(plan),
        },
    )


def _charts(results: RunResults, per_image: Sequence[ImageRow]) -> dict[str, Picture | None]:
    return {
        "dice": figures.dice_by_site(results, per_image),
        "validation": figures.validation_dice(results),
        "loss_seg": figures.loss_by_site(results, "loss_seg"),
        "loss_fd": figures.loss_by_site(results, "loss_fd"),
        "alpha": figures.alpha_by_tap(results),
        "seconds": figures.seconds_by_round(results),
        "epsilon": figures.epsilon_by_site(results),
        "joining": figures.joining_by_site(results),
    }


def _mean_over_sites(results: RunResults) -> dict[str, float | None]:
    """Unweighted means over the sites that reported, so that a large site counts like a small."""
    means: dict[str, float | None] = {}
    for metric in ("dice", "iou"):
        known = [getattr(site, metric) for site in results.sites.values()]
        known = [value for value in known if is_known(value)]
        means[metric] = sum(known) / len(known) if known else None
    return means


def _totals(results: RunResults) -> dict[str, int]:
    names = ("n_train", "n_val", "n_test", "n_empty")
    return {
        name: sum(getattr(site, name) or 0 for site in results.sites.values()) for name in names
    }


def _tap_rows(results: RunResults) -> list[TapRow]:
    """Each tap with its last α and its last known losses."""
    rows = []
    for tap in figures.tap_order(results):
        losses = [record.losses[tap] for record in results.rounds if tap in record.losses]
        fd = [loss.fd for loss in losses if is_known(loss.fd)]
        exch = [loss.exch for loss in losses if is_known(loss.exch)]
        last = (fd[-1] if fd else None, exch[-1] if exch else None)
        rows.append(TapRow(tap, results.alpha.get(tap), *last))
    return rows


def _incidents(results: RunResults) -> Iterator[Incident]:
    """Repeated rounds, updates refused or bounded, and sites that were away."""
    for record in results.rounds:
        if record.attempt > 1:
            yield Incident(record.round, f"met its quorum on attempt {record.attempt}")
        for name, site in record.sites.items():
            if site.refused is not None:
                yield Incident(record.round, f"update of {name} left out: {site.refused}")
            if site.why_bounded is not None:
                yield Incident(record.round, f"{name} {site.why_bounded}")
        away = [name for name in results.sites if record.sites and name not in record.sites]
        if away:
            yield Incident(record.round, f"without {', '.join(away)}")


def _rank(row: ImageRow) -> tuple[str, float, str]:
    """By site, then worst first; excluded images come last."""
    return row.site, row.dice if is_known(row.dice) else math.inf, row.name


def _score(value: float | None, digits: int = 3) -> str:
    """A fraction or a loss with fixed digits and a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "−") if is_known(value) else NOTHING


def _number(value: float | None, digits: int = 3) -> str:
    """A number of any size with `digits` significant ones."""
    return f"{value:.{digits}g}".replace("-", "−") if is_known(value) else NOTHING


def _bytes(count: int | float) -> str:
    """A size in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            digits = 0 if unit == "B" or count >= 99.95 else 1
            return f"{count:.{digits}f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _seconds(value: float | None) -> str:
    """A duration as one reads it aloud."""
    if not is_known(value):
        return NOTHING
    if value < 60:
        return f"{value:.3g} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _many(count: int, noun: str) -> str:
    """`1 site`, `2 sites`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

"""The tables of the study of hostile sites."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fdfed.studies.hostile.behaviours import HOSTILITIES
from fdfed.studies.hostile.study import DEFENCES, SEEDS, HostileResult
from fdfed.studies.page import percent, rewrite_results, write_csv

_COLUMNS: Final = ("hostility", "defence", "seed", "mean_dice", "refused", "bounded", "failure")
STUDY: Final = "hostile"


def write_hostile_study(out: Path, results: Sequence[HostileResult]) -> None:
    """`hostile.csv` in `out`: a row a trial."""
    rows = [
        {
            "hostility": result.hostility,
            "defence": result.defence,
            "seed": result.seed,
            "mean_dice": result.mean,
            "refused": result.refused,
            "bounded": result.bounded,
            "failure": result.failure,
        }
        for result in results
    ]
    write_csv(out / f"{STUDY}.csv", _COLUMNS, rows)


def write_hostile_page(page: Path, results: Sequence[HostileResult]) -> None:
    """Rewrites the results section of the study's page, with its CSV beside it."""
    rewrite_results(
        page,
        STUDY,
        lambda folder: write_hostile_study(folder, results),
        lambda _: hostile_table(results),
    )


def hostile_table(results: Sequence[HostileResult]) -> str:
    """Mean test Dice of the honest sites by hostility and defence, in percent; in brackets the
    least and the most over seeds, and how many of a run's rounds refused or bounded the update."""
    lines = [
        "| hostile site | " + " | ".join(DEFENCES) + " |",
        "|---|" + "---|" * len(DEFENCES),
    ]
    for name, hostility in HOSTILITIES.items():
        cells = [_cell([r for r in results if (r.hostility, r.defence) == (name, defence)])
                 for defence in DEFENCES]  # fmt: skip
        lines.append(f"| {hostility.words} | " + " | ".join(cells) + " |")
    seeds = len({result.seed for result in results})
    count = f"one seed of {SEEDS}" if seeds == 1 else f"{seeds} seeds"
    lines += ["", f"{len(results)} trials, {count}.", ""]
    return "\n".join(lines)


def _cell(results: Sequence[HostileResult]) -> str:
    if not results:
        return "–"
    means = [result.mean for result in results]
    known = [value for value in means if value is not None]
    if len(known) < len(means):
        return "no model"
    text = percent(math.fsum(known) / len(known))
    if len(known) > 1:
        text += f" ({percent(min(known))}–{percent(max(known))})"
    refused = max(result.refused for result in results)
    bounded = max(result.bounded for result in results)
    notes = [f"{n} {word}" for n, word in ((refused, "refused"), (bounded, "bounded")) if n]
    return text + (f"; {', '.join(notes)}" if notes else "")

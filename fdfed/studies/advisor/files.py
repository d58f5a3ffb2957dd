"""What the study of the advisor leaves: observations, a calibration, its validation, its page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from matplotlib.axes import Axes

from fdfed.advisor import Calibration, Observation, validate, write_calibration
from fdfed.advisor.calibration import MIN_PAIRS, PREDICTORS, Validation
from fdfed.evaluation.figure_style import SERIES, save_chart
from fdfed.evaluation.results import library_versions
from fdfed.files.atomic_file import write_text
from fdfed.studies.advisor.ranking import Ranking, rankings
from fdfed.studies.advisor.study import SEEDS, STUDY
from fdfed.studies.page import rewrite_results, write_csv

MADE_BY: Final = (
    "U-Net of width 8 with group normalisation, 64 px, federated averaging of the segmentation "
    "loss, 300 steps at each site, AdamW 2e-3, batch 8; change of validation Dice, mean over the "
    "last fifth of the steps"
)
_NAMES: Final[Mapping[str, str]] = {
    "shift": "shift of prototypes (the advisor)",
    "share": "share of images added",
    "histogram": "distance of intensity histograms",
    "classifier": "AUC of a site classifier",
    "none": "mean change of the other pairs",
}

Kinds = Mapping[str, Sequence[Observation]]


def write_study(out: Path, found: Kinds, *, trials: Mapping[str, tuple[int, int]]) -> None:
    """`advisor.csv`, `calibration.json`, `advisor.svg` and `study.json` in `out`.

    Args:
        found: the observations, by kind (`phantoms`, `images`).
        trials: finished and planned trainings, by kind.
    """
    _write_tables(out, found)
    document = {
        "study": STUDY,
        "made_by": MADE_BY,
        "trials": {kind: {"done": done, "asked": asked} for kind, (done, asked) in trials.items()},
        "seeds": SEEDS,
        "validation": {
            kind: [entry.model_dump() for entry in validations(seen)]
            for kind, seen in found.items()
        },
        "versions": library_versions(),
    }
    write_text(out / "study.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def write_page(page: Path, found: Kinds, *, trials: Mapping[str, tuple[int, int]]) -> None:
    """Rewrites the results section of `page`; table, calibration and figure go beside it.

    Raises:
        InvalidInput: if the page is missing or lacks the two marks around the section.
    """
    rewrite_results(
        page,
        STUDY,
        lambda folder: _write_tables(folder, found),
        lambda _: results_section(found, trials),
    )


def validations(seen: Sequence[Observation]) -> list[Validation]:
    """Every predictor, left-one-pair-out; none with so few pairs that a single one decides."""
    if len({entry.pair for entry in seen}) < MIN_PAIRS:
        return []
    kinds: tuple[Literal["shift", "share", "histogram", "classifier", "none"], ...]
    kinds = ("shift", "share", "histogram", "classifier", "none")
    return [validate(seen, predictor) for predictor in kinds]


def results_section(found: Kinds, trials: Mapping[str, tuple[int, int]]) -> str:
    """The results as Markdown: what was trained, and how well each predictor foretold."""
    parts = []
    if any(found.values()):
        parts.append("![Change of Dice against shift](advisor.svg)")
    for kind, (done, asked) in trials.items():
        seen = found.get(kind, ())
        parts.append(f"### {kind.capitalize()}")
        pairs = len({entry.pair for entry in seen})
        parts.append(
            f"{done} of {asked} trainings are finished: {len(seen)} observations on {pairs} pairs "
            "of sites."
        )
        table = validations(seen)
        if not table:
            parts.append(f"Nothing is validated, nor foretold, on fewer than {MIN_PAIRS} pairs.")
        else:
            parts += [_changes(seen), _table(table), _verdict(table)]
            parts += _orders(rankings(seen))
    return "\n\n".join(parts) + "\n"


def _changes(seen: Sequence[Observation]) -> str:
    changes = np.array([entry.change for entry in seen])
    return (
        f"Adding a site changed the base's Dice by {100 * changes.mean():+.1f} in the mean, from "
        f"{100 * changes.min():+.1f} to {100 * changes.max():+.1f}; it rose in "
        f"{int((changes > 0).sum())} of {len(changes)} observations."
    )


def _table(found: Sequence[Validation]) -> str:
    lines = [
        "| predictor | error (root mean square) | error (mean) | rank correlation | covered |",
        "|---|---|---|---|---|",
    ]
    for entry in found:
        rank = "–" if entry.rank is None else f"{entry.rank:+.2f}"
        covered = "–" if entry.covered is None else f"{entry.covered:.0%}"
        lines.append(
            f"| {_NAMES[entry.predictor]} | {100 * entry.rmse:.2f} | {100 * entry.mae:.2f} | "
            f"{rank} | {covered} |"
        )
    return "\n".join(lines) + (
        "\n\nErrors in points of Dice on pairs that were left out, in both directions and with all "
        "seeds. Covered: pairs whose changes lay in the 80 % interval that the other pairs gave."
    )


def _orders(found: Sequence[Ranking]) -> list[str]:
    if not found:
        return []
    lines = [
        "| order of a base's candidates | rank correlation, mean over bases | first was best | "
        "points missed by taking the first |",
        "|---|---|---|---|",
    ]
    for entry in found:
        which = "most images first" if entry.predictor == "share" else "least first"
        lines.append(
            f"| {_NAMES[entry.predictor]}, {which} | {entry.rank:+.2f} | {entry.hits} of "
            f"{entry.bases} | {100 * entry.missed:.1f} |"
        )
    return ["\n".join(lines)]


def _verdict(found: Sequence[Validation]) -> str:
    """What the table says, in a sentence that no later number can make wrong."""
    errors = {entry.predictor: entry.rmse for entry in found}
    best = min(PREDICTORS, key=lambda name: errors[name])
    own = errors["shift"]
    if own >= errors["none"]:
        first = "The advisor's shift foretold no better than the mean change of the other pairs"
    else:
        less = 1 - own / errors["none"]
        first = f"The advisor's shift left an error {less:.0%} below that of the mean change"
    beaten = [name for name in PREDICTORS[1:] if own < errors[name]]
    second = f"it beat {len(beaten)} of the three trivial predictors"
    if best == "shift":
        return f"{first}; {second}, and none was better."
    return f"{first}; {second}, and the best of all was the {_NAMES[best]}."


def _write_tables(folder: Path, found: Kinds) -> None:
    rows: list[dict[str, Any]] = [
        {"kind": kind} | entry.model_dump(exclude={"phantoms"})
        for kind, seen in found.items()
        for entry in seen
    ]
    columns = ("kind", "base", "novel", "change", *PREDICTORS)
    write_csv(folder / f"{STUDY}.csv", columns, rows)
    everything = tuple(entry for seen in found.values() for entry in seen)
    made = Calibration(made_by=MADE_BY, observations=everything)
    write_calibration(folder / "calibration.json", made)
    shown = {kind: seen for kind, seen in found.items() if seen}
    if shown:
        save_chart(
            folder / f"{STUDY}.svg",
            lambda panels: _draw(panels, shown),
            panels=len(shown),
            width=4.2 * len(shown),
            height=3.2,
        )


def _draw(panels: Sequence[Axes], found: Kinds) -> None:
    for axes, (kind, seen) in zip(panels, found.items(), strict=True):
        shift = np.array([entry.shift for entry in seen])
        change = 100 * np.array([entry.change for entry in seen])
        axes.plot(shift, change, "o", color=SERIES[0], alpha=0.6, markersize=4)
        axes.axhline(0, color=SERIES[5], linewidth=0.9)
        if len({entry.pair for entry in seen}) >= MIN_PAIRS:
            slope, start = np.polyfit(shift, change, 1)
            ends = np.array([shift.min(), shift.max()])
            axes.plot(ends, start + slope * ends, color=SERIES[1], linestyle="--")
        axes.set(title=kind, xlabel="shift, mean over taps of log(1 + size)")
        axes.set_ylabel("change of Dice at the base, points")

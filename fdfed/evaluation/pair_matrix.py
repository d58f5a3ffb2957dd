"""How alike the sites' features are, pair by pair, at each tap: `RoundRecord.pairs` as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from fdfed.evaluation.figure_style import Picture, picture
from fdfed.evaluation.results import RoundRecord, RunResults

_NUMBERS_UP_TO = 4
"""Sites up to which each cell has its number; beyond, the colour alone would be covered."""
_CLOSEST = 0.62
"""Share of the colour scale above which text is dark."""


def last_pairs(results: RunResults) -> RoundRecord | None:
    """The newest round that compared sites, if there is one."""
    return next((record for record in reversed(results.rounds) if record.pairs), None)


def pair_matrix(
    record: RoundRecord, tap: str, sites: tuple[str, ...]
) -> Float[np.ndarray, "sites sites"]:
    """The pair terms at `tap`; NaN where two sites never met."""
    matrix = np.full((len(sites), len(sites)), math.nan)
    for names, terms in record.pairs.items():
        first, second = names.split(" ")
        if tap in terms and first in sites and second in sites:
            s, t = sites.index(first), sites.index(second)
            matrix[s, t] = matrix[t, s] = terms[tap]
    return matrix


def pair_panels(results: RunResults) -> list[Picture]:
    """One matrix a tap, of the newest round that has any, all with one scale of colours a tap."""
    record = last_pairs(results)
    if record is None:
        return []
    sites = tuple(results.sites)
    taps = dict.fromkeys(tap for terms in record.pairs.values() for tap in terms)
    matrices = {tap: pair_matrix(record, tap, sites) for tap in taps}
    return [
        _panel(f"pair{number}", tap, matrix, sites)
        for number, (tap, matrix) in enumerate(matrices.items())
        if not np.isnan(matrix).all()
    ]


def _panel(
    name: str, tap: str, matrix: Float[np.ndarray, "sites sites"], sites: tuple[str, ...]
) -> Picture:
    return picture(
        name,
        partial(_draw, matrix=matrix, sites=sites),
        tap,
        f"{tap}: {_words(matrix, sites)}",
        width=2.5,
        height=2.1,
        legend=False,
        rounds=False,
    )


def _draw(axes: Axes, *, matrix: Float[np.ndarray, "sites sites"], sites: tuple[str, ...]) -> None:
    low, high = np.nanmin(matrix), np.nanmax(matrix)
    axes.imshow(matrix, cmap="cividis", vmin=low, vmax=high, interpolation="none")
    axes.set_xticks(range(len(sites)), sites, rotation=30, ha="right")
    axes.set_yticks(range(len(sites)), sites)
    axes.tick_params(labelsize=8, length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if len(sites) > _NUMBERS_UP_TO:
        return
    for (row, column), value in np.ndenumerate(matrix):
        if not math.isnan(value):
            bright = (value - low) / ((high - low) or 1.0) > _CLOSEST
            text = f"{value:.2f}".replace("-", "−")
            colour = "#101010" if bright else "#ffffff"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)


def _words(matrix: Float[np.ndarray, "sites sites"], sites: tuple[str, ...]) -> str:
    pairs = {
        (s, t): matrix[s, t]
        for s in range(len(sites))
        for t in range(s + 1, len(sites))
        if not math.isnan(matrix[s, t])
    }
    own: Mapping[int, float] = {
        s: matrix[s, s] for s in range(len(sites)) if not math.isnan(matrix[s, s])
    }
    parts = [f"{sites[s]} and {sites[t]} {value:.2f}" for (s, t), value in pairs.items()]
    parts += [f"{sites[s]} within itself {value:.2f}" for s, value in own.items()]
    return "; ".join(parts) + " nats."

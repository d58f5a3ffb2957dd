"""One image with the outlines of its annotation and of its prediction, for a site's own report."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
from jaxtyping import Bool, Float
from markupsafe import Markup
from PIL import Image

from fdfed.evaluation.aggregates import ImageScore
from fdfed.evaluation.contours import outlines, svg_path
from fdfed.evaluation.figure_style import Picture
from fdfed.evaluation.heat_maps import HeatMap, HeatRow, common_scales, draw
from fdfed.evaluation.metrics import THRESHOLD

SHOWN: Final = 3
"""Worst and best cases shown, each, per site."""


@dataclass(frozen=True, slots=True, eq=False)
class CaseView:
    """A scored test image with its pixels. Exists at its own site, or in a simulation, only."""

    site: str
    name: str
    image: Float[np.ndarray, "height width channels"]
    """In [0, 1], grey (1 channel) or RGB (3)."""
    mask: Bool[np.ndarray, "height width"]
    probability: Float[np.ndarray, "height width"]
    dice: float
    """NaN if the image is excluded (its annotation is empty)."""
    heat: Mapping[str, HeatMap] = field(default_factory=dict)
    """Mean activation by tap (`fdfed.evaluation.heat_maps`)."""


@dataclass(frozen=True, slots=True)
class Extremes:
    """The worst and the best scored images of one site; no image is in both."""

    site: str
    worst: tuple[Picture, ...]
    best: tuple[Picture, ...]
    heat: tuple[HeatRow, ...] = ()
    """The very worst and the very best one, as the network sees them."""


def shown(scores: Iterable[ImageScore]) -> set[str]:
    """Names of the images of one site that `extremes` would show."""
    known = [score for score in scores if not math.isnan(score.dice)]
    ranked = sorted(known, key=lambda score: (score.dice, score.name))
    worst, best = _ends(ranked)
    return {score.name for score in (*worst, *best)}


def extremes(cases: Iterable[CaseView]) -> list[Extremes]:
    """Up to `SHOWN` worst and best scored cases of each site, by Dice, ties by name."""
    by_site: dict[str, list[CaseView]] = {}
    for case in cases:
        if not math.isnan(case.dice):
            by_site.setdefault(case.site, []).append(case)
    found = []
    for site, known in by_site.items():
        worst, best = _ends(sorted(known, key=lambda case: (case.dice, case.name)))
        heat = _heat_rows([*worst[:1], *best[:1]])
        found.append(Extremes(site, tuple(map(_draw, worst)), tuple(map(_draw, best)), heat))
    return found


_Ranked = TypeVar("_Ranked")


def _ends(ranked: Sequence[_Ranked]) -> tuple[Sequence[_Ranked], Sequence[_Ranked]]:
    """The first few, and the last few from the end; none is in both."""
    count = min(SHOWN, len(ranked) // 2) or 1
    return ranked[:count], ranked[count:][-count:][::-1]


def _heat_rows(cases: Sequence[CaseView]) -> tuple[HeatRow, ...]:
    scales = common_scales([case.heat for case in cases])
    return tuple(
        HeatRow(
            f"{case.name} · Dice {case.dice:.3f}",
            tuple(
                draw(tap, heat, case.mask, scale=scales[tap], of=f"{case.name} of {case.site}")
                for tap, heat in case.heat.items()
            ),
        )
        for case in cases
        if case.heat
    )


def _draw(case: CaseView) -> Picture:
    """The image with both outlines as vectors: annotation drawn through, prediction dashed."""
    height, width = case.mask.shape
    annotated = svg_path(outlines(case.mask))
    predicted = svg_path(outlines(case.probability, level=THRESHOLD))
    alt = (
        f"Test image {case.name} of {case.site}: the annotation covers {case.mask.mean():.1%} of "
        f"it, the prediction {(case.probability >= THRESHOLD).mean():.1%}; Dice {case.dice:.3f}."
    )
    # Each outline lies on a dark casing, so that it shows on bright and on dark tissue.
    svg = Markup(
        '<svg role="img" class="case" aria-label="{alt}" viewBox="0 0 {w} {h}">'
        '<image href="data:image/png;base64,{data}" width="{w}" height="{h}"/>'
        '<path class="casing" d="{annotated}"/><path class="annotation" d="{annotated}"/>'
        '<path class="casing" d="{predicted}"/><path class="prediction" d="{predicted}"/></svg>'
    ).format(alt=alt, w=width, h=height, data=_png(case), annotated=annotated, predicted=predicted)
    return Picture(svg, f"Dice {case.dice:.3f} · {case.name}", alt)


def _png(case: CaseView) -> str:
    levels = np.rint(np.clip(case.image, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")

"""The one style of all figures: Matplotlib drawings as inline SVG that follows the page.

Colours leave here as CSS variables, so that one figure serves light, dark and print. Series differ
by colour (after Okabe and Ito 2008, safe for the common colour-vision deficiencies), line style
and marker. Text stays text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fdfed.files.atomic_file import replacing

SERIES: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#777777")
"""Placeholders for the variables --s0 … --s5 of the style sheet."""
INK: Final = "#0a0b0c"
"""Placeholder for the text's own colour."""
FAINT: Final = "#0a0b0d"
"""Placeholder for --faint: grid lines and frames."""

_FILE_INK: Final = "#1f2933"
_FILE_FAINT: Final = "#c9d1d9"
"""Text, and grid lines and frames, of a chart that is a file."""

_DASHES: Final = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
_MARKERS: Final = ("o", "s", "^", "D", "v", "P")
_LEGEND_CHARACTERS: Final = 76
"""Characters of legend that fit beside each other above a chart."""
_HANDLE_CHARACTERS: Final = 8
"""Room that the sample of a line takes, in characters."""
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """An inline SVG, its caption, and what it shows in words (also the SVG's label)."""

    svg: Markup
    caption: str
    alt: str


def picture(
    name: str,
    draw: Callable[[Axes], None],
    caption: str,
    alt: str,
    *,
    width: float = 4.6,
    height: float = 2.7,
    legend: bool = True,
    rounds: bool = True,
) -> Picture:
    """Draws on fresh axes; `width` and `height` in inches, as far as a scalable figure has any."""
    # A panel is shown smaller than a chart, so its text starts larger.
    small: dict[Any, Any] = {"font.size": 10.5} if width < 3 else {}
    with mpl.rc_context({**_STYLE, **small, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        if rounds:
            axes.set_xlabel("round" if legend or width > 3 else "")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8 if width > 3 else 4))
        labels = axes.get_legend_handles_labels()[1]
        if legend and labels:
            columns = _legend_columns(labels)
            figure.legend(
                loc="outside upper left", ncols=columns, handlelength=2.4, columnspacing=1.2
            )
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Picture(_inline(buffer.getvalue(), name, alt), caption, alt)


def save_chart(
    path: Path, draw: Callable[[Sequence[Axes]], None], *, panels: int, width: float, height: float
) -> None:
    """Draws `panels` axes side by side and writes them to `path` as a file of its own, whose
    colours do not come from a page; `width` and `height` of the whole in inches."""
    own = {INK: _FILE_INK, FAINT: _FILE_FAINT}
    style = {
        key: own.get(value, value) if isinstance(value, str) else value
        for key, value in _STYLE.items()
    }
    with mpl.rc_context(
        {
            **style,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "svg.hashsalt": path.stem,
        }
    ):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        draw(list(axes))
        with replacing(path) as part:
            # A date would make two equal charts differ; PNG has none to leave out.
            dated = path.suffix == ".svg"
            figure.savefig(part, dpi=160, metadata={"Date": None} if dated else None)


def legend_above(axes: Axes) -> None:
    """One legend for all panels of a chart that have the series of `axes`, above them in a row."""
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))


def _legend_columns(labels: list[str]) -> int:
    widths = [len(label) + _HANDLE_CHARACTERS for label in labels]
    if sum(widths) <= _LEGEND_CHARACTERS:
        return len(labels)
    return max(1, _LEGEND_CHARACTERS // max(widths))


def _inline(svg: str, name: str, alt: str) -> Markup:
    """Matplotlib's file as an element of a page: own ids, the page's colours and font, a label."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--font)", svg)
    svg = svg.replace(INK, "currentColor").replace(FAINT, "var(--faint)")
    for number, colour in enumerate(SERIES):
        svg = svg.replace(colour, f"var(--s{number})")
    size = re.compile(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>')
    head = rf'<svg role="img" aria-label="{escape(alt)}" viewBox="\1">'
    # The only caller-made text is the label, which is escaped; Matplotlib escapes what it draws.
    return Markup(size.sub(lambda match: match.expand(head), svg, count=1))  # noqa: S704


def series_look(number: int) -> tuple[str, Any, str]:
    """Colour, line style and marker of the series `number`; 36 looks before one comes twice."""
    turn = number + number // len(SERIES)
    return SERIES[number % len(SERIES)], _DASHES[turn % 6], _MARKERS[turn % 6]

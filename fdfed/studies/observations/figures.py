"""The paper's Figures 1, 2, 6 and 8, of runs without and with L_fd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes

from fdfed.evaluation.figure_style import save_chart, series_look
from fdfed.studies.observations.measures import correlation, moved, paired, usable
from fdfed.studies.scored_images import ScoredImage

Images = Sequence[ScoredImage]
ByGroup = Mapping[str, Images]

PUBLISHED_GAINS: Final = {
    "TNBC": 0.96,
    "MoNuSeg": 0.74,
    "UDIAT": 0.75,
    "AD 128": 1.74,
    "AD 256": 3.55,
}
"""Fig. 6 and section 4.3: Dice points over the previous best model, cited and not rerun."""

_PANEL: Final = 4.4


def last_decoder(images: Images) -> str:
    """The name of the last decoder's tap."""
    return [tap for tap in images[0].discrepancy if tap.startswith("Dec")][-1]


def draw_scatter(path: Path, groups: ByGroup) -> None:
    """Fig. 1a: Dice against L_fd of every test image with L_fd trained, at the bottleneck and at
    the last decoder, with the least-squares line."""
    panels = [
        (group, tap) for group, images in groups.items() for tap in ("Bot", last_decoder(images))
    ]

    def draw(axes: Sequence[Axes]) -> None:
        for panel, (group, tap) in zip(axes, panels, strict=True):
            images = groups[group]
            for number, site in enumerate(dict.fromkeys(image.site for image in images)):
                own = usable([image for image in images if image.site == site], tap)
                colour, _, marker = series_look(number)
                loss = [image.discrepancy[tap] for image in own]
                dice = [100 * (image.dice or 0.0) for image in own]
                panel.plot(loss, dice, color=colour, marker=marker, ls="none", label=site)
            found = correlation(images, tap)
            if found.slope is not None and found.intercept is not None:
                ends = [image.discrepancy[tap] for image in usable(images, tap)]
                line = [min(ends), max(ends)]
                panel.plot(
                    line,
                    [100 * (found.intercept + found.slope * x) for x in line],
                    color="#777777",
                    marker="none",
                )
            r = found.pearson.value
            panel.set_title(
                f"{group}, {tap}" + ("" if r is None else f", r = {r:.2f}"),
                loc="left",
                fontsize=9.5,
            )
            panel.set_xlabel("L_fd of the image")
            panel.legend(loc="best")
        axes[0].set_ylabel("Dice, %")

    save_chart(path, draw, panels=len(panels), width=_PANEL * len(panels), height=3.4)


def draw_alpha(path: Path, groups: ByGroup, alpha: Mapping[str, Mapping[str, float]]) -> None:
    """Fig. 2a: the final α of every tap against the mean L_fd of the test images there."""

    def draw(axes: Sequence[Axes]) -> None:
        for panel, (group, images) in zip(axes, groups.items(), strict=True):
            for number, (tap, weight) in enumerate(alpha[group].items()):
                own = usable(images, tap)
                if own:
                    mean = sum(image.discrepancy[tap] for image in own) / len(own)
                    panel.plot(mean, weight, color=series_look(0)[0], marker="o", ls="none")
                    panel.annotate(
                        tap,
                        (mean, weight),
                        # Above and below in turn, as neighbours often lie on one point.
                        xytext=(4, -10 if number % 2 else 4),
                        textcoords="offset points",
                        fontsize=8,
                    )
            panel.set_xlabel("mean L_fd of the test images")
            panel.set_title(group, loc="left", fontsize=9.5)
        axes[0].set_ylabel("α after the last round")

    save_chart(path, draw, panels=len(groups), width=_PANEL * len(groups), height=3.4)


def draw_histograms(path: Path, before: ByGroup, after: ByGroup) -> None:
    """Fig. 2b: how Dice and L_fd at the bottleneck are spread without and with L_fd."""
    panels = [(group, kind) for group in before for kind in ("Dice, %", "L_fd at Bot")]

    def values(images: Images, kind: str) -> list[float]:
        own = usable(images, "Bot")
        if kind.startswith("Dice"):
            return [100 * (image.dice or 0.0) for image in own]
        return [image.discrepancy["Bot"] for image in own]

    def draw(axes: Sequence[Axes]) -> None:
        for panel, (group, kind) in zip(axes, panels, strict=True):
            sides = {
                label: values(images, kind)
                for label, images in (("no L_fd", before[group]), ("L_fd", after[group]))
            }
            edges = np.histogram_bin_edges([*chain(*sides.values())], bins=12)
            for number, (label, found) in enumerate(sides.items()):
                colour, dashes, _ = series_look(number)
                panel.hist(
                    found,
                    bins=edges.tolist(),
                    histtype="step",
                    color=colour,
                    linestyle=dashes,
                    linewidth=1.6,
                    label=label,
                )
            panel.set_xlabel(kind)
            panel.set_title(group, loc="left", fontsize=9.5)
            panel.legend(loc="best")
        axes[0].set_ylabel("test images")

    save_chart(path, draw, panels=len(panels), width=_PANEL * len(panels), height=3.2)


def draw_moves(path: Path, before: ByGroup, after: ByGroup) -> None:
    """Fig. 8: an arrow an image in the plane of L_fd at the bottleneck and Dice."""

    def draw(axes: Sequence[Axes]) -> None:
        for panel, group in zip(axes, before, strict=True):
            for old, new in paired(before[group], after[group], "Bot"):
                start, end = (
                    (image.discrepancy["Bot"], 100 * (image.dice or 0.0)) for image in (old, new)
                )
                better = end[0] < start[0] and end[1] > start[1]
                colour = series_look(0 if better else 1)[0]
                panel.annotate(
                    "",
                    xy=end,
                    xytext=start,
                    arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 0.9},
                )
                panel.plot(*start, color=colour, marker=".", ls="none")
                panel.update_datalim([end])  # What is annotated alone does not widen the axes.
            panel.autoscale_view()
            share = moved(before[group], after[group], "Bot")
            text = "" if share is None else f", {100 * share:.0f} % to lower L_fd and higher Dice"
            panel.set_title(group + text, loc="left", fontsize=9.5)
            panel.set_xlabel("L_fd at Bot")
        for number, label in enumerate(("lower L_fd and higher Dice", "elsewhere")):
            axes[-1].plot([], [], color=series_look(number)[0], marker=".", label=label)
        axes[-1].legend(loc="upper right")
        axes[0].set_ylabel("Dice, %")

    save_chart(path, draw, panels=len(before), width=1.2 * _PANEL * len(before), height=3.8)


def draw_gains(path: Path, ours: Mapping[str, float]) -> None:
    """Fig. 6: Dice points that L_fd gains, ours over the same network without it, and the published
    ones over the best model before."""

    def draw(axes: Sequence[Axes]) -> None:
        (panel,) = axes
        bars = {f"{site}, here": gain for site, gain in ours.items()}
        bars |= {f"{name}, published": gain for name, gain in PUBLISHED_GAINS.items()}
        colours = [series_look(0 if name.endswith("here") else 5)[0] for name in bars]
        panel.barh(list(bars), list(bars.values()), color=colours)
        panel.invert_yaxis()
        panel.axvline(0, color="#777777", linewidth=0.8)
        panel.set_xlabel("Dice points")

    height = 0.9 + 0.3 * (len(ours) + len(PUBLISHED_GAINS))
    save_chart(path, draw, panels=1, width=6.4, height=height)

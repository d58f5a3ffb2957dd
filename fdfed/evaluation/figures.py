"""The figures of a run report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from matplotlib.axes import Axes

from fdfed.evaluation.figure_style import INK, SERIES, Picture, picture, series_look
from fdfed.evaluation.results import (
    ImageRow,
    RoundRecord,
    RunResults,
    SiteResult,
    SiteRound,
    is_known,
)

_MAX_MARKERS: Final = 12


def validation_dice(results: RunResults) -> Picture | None:
    """Validation Dice by site over rounds, the switch of phase and the best round marked."""
    known = [record for record in results.rounds if record.mean_val_dice is not None]
    if not known:
        return None
    best = next((record for record in known if record.round == results.best_round), None)

    def draw(axes: Axes) -> None:
        _lines_by_site(axes, results.rounds, lambda row: row.val_dice)
        _mark_phases(axes, results.rounds)
        axes.set(ylim=(0, 1.02), ylabel="validation Dice")
        if best is not None and best.mean_val_dice is not None:
            label = f"best round ({best.round})"
            axes.plot(best.round, best.mean_val_dice, "*", color=INK, markersize=13, label=label)

    alt = "Validation Dice by round. " + _story(results.rounds, lambda row: row.val_dice)
    caption = "Mean validation Dice of each round's aggregated model at each site."
    silent = [
        site
        for site in _sites(results.rounds)
        if not any(is_known(r.sites[site].val_dice) for r in results.rounds if site in r.sites)
    ]
    if silent:
        caption += f" Withheld, for too few validation images: {', '.join(silent)}."
    if best is not None:
        alt += f" Best round: {best.round}, mean over sites {best.mean_val_dice:.3f}."
        caption += " The star is the round with the best unweighted mean over sites."
    return picture("validation", draw, caption, alt)


def loss_by_site(results: RunResults, kind: str) -> Picture | None:
    """Training loss `kind` (`loss_seg` or `loss_fd`) by site over rounds."""

    def value(row: SiteRound) -> float | None:
        return row.loss_seg if kind == "loss_seg" else row.loss_fd

    if not any(is_known(value(row)) for r in results.rounds for row in r.sites.values()):
        return None
    words = {
        "loss_seg": (
            "segmentation loss",
            "Segmentation loss (Dice and cross-entropy), mean over steps.",
        ),
        "loss_fd": (
            "discrepancy loss (nats)",
            "Feature-discrepancy loss, mean over taps and steps.",
        ),
    }
    label, caption = words[kind]

    def draw(axes: Axes) -> None:
        _lines_by_site(axes, results.rounds, value)
        _mark_phases(axes, results.rounds)
        axes.set(ylabel=label)

    alt = f"{caption[:-1]}, by round. {_story(results.rounds, value)}"
    return picture(kind.replace("_", "-"), draw, caption, alt)


def epsilon_by_site(results: RunResults) -> Picture | None:
    """ε that each site's ledger had spent after each round; None without differential privacy."""

    def value(row: SiteRound) -> float | None:
        return None if row.privacy is None else row.privacy.epsilon

    if not any(is_known(value(row)) for r in results.rounds for row in r.sites.values()):
        return None

    def draw(axes: Axes) -> None:
        _lines_by_site(axes, results.rounds, value)
        _mark_phases(axes, results.rounds)
        axes.set(ylabel="ε spent")
        axes.set_ylim(bottom=0)

    caption = "ε that each site's own ledger says it has spent, by round; δ is in the table."
    alt = f"ε spent, by round. {_story(results.rounds, value)}"
    return picture("epsilon", draw, caption, alt, height=2.3)


def joining_by_site(results: RunResults) -> Picture | None:
    """What joining gave each site, with its interval; None where nobody compared."""
    found = {name: joining for name, joining in results.joining.items() if joining.gain is not None}
    if not found:
        return None
    # Of two patients an interval is wider than all Dice, and would flatten the others.
    ends = [abs(joining.gain or 0.0) for joining in found.values()]
    ends += [
        max(abs(joining.low), abs(joining.high))
        for joining in found.values()
        if joining.patients > 2 and joining.low is not None and joining.high is not None
    ]
    reach = 1.15 * max(*ends, 0.02)

    def draw(axes: Axes) -> None:
        for row, (name, joining) in enumerate(found.items()):
            gain = joining.gain or 0.0
            low, high = joining.low, joining.high
            spread = None if low is None or high is None else [[gain - low], [high - gain]]
            colour, _, marker = series_look(list(results.sites).index(name))
            axes.errorbar(gain, row, xerr=spread, fmt=marker, color=colour, markersize=7, capsize=3)
        axes.axvline(0, color=INK, linewidth=0.9)
        axes.set_yticks(range(len(found)), found)
        axes.set(xlim=(-reach, reach), ylim=(len(found) - 0.4, -0.6), xlabel="gain in test Dice")
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")

    alt = "; ".join(
        f"{name} {joining.gain:+.3f}"
        + ("" if joining.low is None else f", from {joining.low:+.3f} to {joining.high:+.3f}")
        for name, joining in found.items()
    )
    return picture(
        "joining",
        draw,
        "Test Dice of the federation's model less that of the site's own; the line is the 95 % "
        "interval, which may run out of the figure. Right of zero: joining helped.",
        f"Gain in test Dice by joining: {alt}.",
        height=0.9 + 0.5 * len(found),
        legend=False,
        rounds=False,
    )


def alpha_by_tap(results: RunResults) -> Picture | None:
    """α of each tap over rounds, as a map: taps from top to bottom as data flows."""
    taps = tap_order(results)
    if not any(value > 0 for record in results.rounds for value in record.alpha.values()):
        return None
    rounds = [record.round for record in results.rounds]
    # NaN is left blank: α = 0 of phase 1 is no measurement.
    grid = [
        [math.nan if r.phase == 1 else r.alpha.get(tap, math.nan) for r in results.rounds]
        for tap in taps
    ]

    def draw(axes: Axes) -> None:
        extent = (rounds[0] - 0.5, rounds[-1] + 0.5, len(taps) - 0.5, -0.5)
        image = axes.imshow(
            grid, aspect="auto", interpolation="none", cmap="cividis", vmin=0, extent=extent
        )
        axes.set_yticks(range(len(taps)), taps)
        axes.grid(visible=False)
        _mark_phases(axes, results.rounds)
        bar = axes.figure.colorbar(image, ax=axes, pad=0.02, fraction=0.06)
        bar.outline.set_visible(False)
        bar.set_label("α")

    final = ", ".join(f"{tap} {results.alpha[tap]:.4f}" for tap in taps if tap in results.alpha)
    return picture(
        "alpha",
        draw,
        "The weight α with which each round trained each tap; blank in phase 1, where it is 0.",
        f"Map of α by tap and round. At the end: {final}.",
        height=2.7,
    )


def tap_panels(results: RunResults) -> list[Picture]:
    """One small panel a tap: its L_fd within sites and its cross-site term, over rounds."""
    rounds = results.rounds
    panels = []
    for number, tap in enumerate(tap_order(results)):
        losses = [record.losses.get(tap) for record in rounds]
        fd = [math.nan if loss is None or loss.fd is None else loss.fd for loss in losses]
        exch = [math.nan if loss is None or loss.exch is None else loss.exch for loss in losses]
        if all(math.isnan(value) for value in (*fd, *exch)):
            continue
        panels.append(_tap_panel(f"tap{number}", tap, rounds, fd, exch))
    return panels


def _tap_panel(
    name: str,
    tap: str,
    rounds: Sequence[RoundRecord],
    fd: Sequence[float],
    exch: Sequence[float],
) -> Picture:
    numbers = [record.round for record in rounds]

    def draw(axes: Axes) -> None:
        # A dot each, for a single round makes no line.
        axes.plot(numbers, fd, ".-", color=SERIES[0], label="within sites")
        axes.plot(numbers, exch, ".--", color=SERIES[1], label="across sites")
        _span_rounds(axes, rounds)
        _mark_phases(axes, rounds, words=False)

    parts = [
        f"{label} from {_first(values):.2f} to {_first(reversed(values)):.2f}"
        for label, values in (("within sites", fd), ("across sites", exch))
        if not all(math.isnan(value) for value in values)
    ]
    alt = f"{tap}: loss in nats by round, {'; '.join(parts)}."
    return picture(name, draw, tap, alt, width=2.5, height=1.65, legend=False)


def dice_by_site(results: RunResults, per_image: Sequence[ImageRow]) -> Picture | None:
    """Test Dice by site: mean, standard deviation, quartiles, and single images where known."""
    names = [name for name, site in results.sites.items() if is_known(site.dice)]
    if not names:
        return None

    def draw(axes: Axes) -> None:
        for row, name in enumerate(names):
            _dice_row(axes, row, results.sites[name], series_look(list(results.sites).index(name)))
            scores = [i.dice for i in per_image if i.site == name and is_known(i.dice)]
            # A fixed spread over five lanes, so that equal scores stay apart.
            lanes = [row + 0.2 + 0.06 * (index % 5) for index in range(len(scores))]
            axes.plot(scores, lanes, ".", color=INK, alpha=0.6, markersize=4)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlim=(0, 1.02), ylim=(len(names) - 0.4, -0.5), xlabel="test Dice")
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")

    alt = "; ".join(
        f"{name} mean {results.sites[name].dice:.3f}, "
        f"standard deviation {results.sites[name].dice_sd or 0:.3f}"
        for name in names
    )
    caption = "Mean and standard deviation (line) and quartiles (bar) over a site's test images"
    caption += "; each small dot is one image." if per_image else "."
    return picture(
        "dice",
        draw,
        caption,
        f"Test Dice by site: {alt}.",
        height=0.9 + 0.5 * len(names),
        legend=False,
        rounds=False,
    )


def _dice_row(axes: Axes, row: int, site: SiteResult, look: tuple[str, Any, str]) -> None:
    colour, _, marker = look
    mean, sd = site.dice or 0.0, site.dice_sd or 0.0
    axes.errorbar(mean, row, xerr=sd, fmt=marker, color=colour, markersize=7, capsize=3)
    if is_known(site.dice_q25) and is_known(site.dice_q75):
        width = site.dice_q75 - site.dice_q25
        axes.barh(row, width, 0.24, site.dice_q25, color=colour, alpha=0.3)


def seconds_by_round(results: RunResults) -> Picture | None:
    """Wall-clock seconds of each round."""
    known = [(r.round, r.seconds) for r in results.rounds if r.seconds is not None]
    if not known:
        return None
    numbers, seconds = zip(*known, strict=True)

    def draw(axes: Axes) -> None:
        axes.bar(numbers, seconds, color=SERIES[0], width=0.75)
        _span_rounds(axes, results.rounds)
        _mark_phases(axes, results.rounds)
        axes.set(ylabel="seconds")

    alt = f"Seconds by round, between {min(seconds):.1f} and {max(seconds):.1f}."
    return picture("seconds", draw, "Wall-clock time of each round.", alt, height=2.1, legend=False)


def _lines_by_site(
    axes: Axes, rounds: Sequence[RoundRecord], value: Callable[[SiteRound], float | None]
) -> None:
    every = max(1, len(rounds) // _MAX_MARKERS)
    for number, site in enumerate(_sites(rounds)):
        colour, dashes, marker = series_look(number)
        known = [value(record.sites.get(site, SiteRound())) for record in rounds]
        if not any(is_known(v) for v in known):
            continue
        axes.plot(
            [record.round for record in rounds],
            [math.nan if v is None else v for v in known],
            color=colour,
            linestyle=dashes,
            marker=marker,
            markevery=every,
            label=site,
        )
    _span_rounds(axes, rounds)


def _span_rounds(axes: Axes, rounds: Sequence[RoundRecord]) -> None:
    """All rounds of the run, also where a curve begins late: figures can then be compared."""
    axes.set_xlim(rounds[0].round - 0.5, rounds[-1].round + 0.5)


def _mark_phases(axes: Axes, rounds: Sequence[RoundRecord], *, words: bool = True) -> None:
    """A line before the first round of phase 2, if there is one."""
    first = next((record.round for record in rounds if record.phase == 2), None)
    if first is None:
        return
    axes.axvline(first - 0.5, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
    if words:
        axes.annotate(
            "phase 2 →",
            (first - 0.5, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=8,
        )


def _story(rounds: Sequence[RoundRecord], value: Callable[[SiteRound], float | None]) -> str:
    """First and last value of each site, in words."""
    parts = []
    for site in _sites(rounds):
        found = [(r.round, value(r.sites[site])) for r in rounds if site in r.sites]
        known = [(number, v) for number, v in found if is_known(v)]
        if known:
            (first, start), (last, end) = known[0], known[-1]
            parts.append(f"{site}: {start:.3f} in round {first}, {end:.3f} in round {last}")
    return "; ".join(parts) + "."


def _sites(rounds: Sequence[RoundRecord]) -> list[str]:
    return list(dict.fromkeys(site for record in rounds for site in record.sites))


def tap_order(results: RunResults) -> list[str]:
    """Taps in the network's order, as the first round that names them does."""
    named = (tap for record in results.rounds for tap in (*record.alpha, *record.losses))
    return list(dict.fromkeys((*results.alpha, *named)))


def _first(values: Iterable[float]) -> float:
    return next(value for value in values if not math.isnan(value))

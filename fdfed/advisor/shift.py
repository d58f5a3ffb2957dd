"""How far two sites lie apart at a tap, in units of how far patients of one site lie apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fdfed.advisor.summary import SiteSummary, TapSummary
from fdfed.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Shift:
    """The shift between two sites at one tap."""

    size: float
    """Without the part that chance gives; 0: no more than chance."""
    chance: float
    """What sites without any shift would show on average, for so few patients."""


def shift_between(first: TapSummary, second: TapSummary) -> Shift:
    """The standardised shift of both prototypes:

        size² = max(0, ‖F_s - F_t‖² + ‖B_s - B_t‖² - v_s/n_s - v_t/n_t) / ((v_s + v_t) / 2)

    with v the scatter between patients, F and B together, and n the patients. The subtracted terms
    are the expectation of the distance between means of samples from one distribution, so that a
    site of few patients does not look far away for that alone; `chance` is the square root of them
    over the same denominator. It is Cohen's d (1988, section 2.2) for vectors, with the trace of
    the covariance in place of a variance. Neither a rotation of the features nor their scale
    changes it.

    Raises:
        InvalidInput: if the taps have different numbers of channels, or no patient differs from
            another, so that there is no unit.
    """
    if len(first.foreground) != len(second.foreground):
        raise InvalidInput(
            f"shift_between got taps of {len(first.foreground)} and {len(second.foreground)} "
            "channels; summarise both sites under one network"
        )
    distance = sum(
        float(np.square(np.subtract(a, b)).sum())
        for a, b in (
            (first.foreground, second.foreground),
            (first.background, second.background),
        )
    )
    expected = first.scatter / first.patients + second.scatter / second.patients
    unit = (first.scatter + second.scatter) / 2
    if unit == 0:
        if distance == 0:  # a tap that is dead at both
            return Shift(0.0, 0.0)
        raise InvalidInput(
            "shift_between got two sites within which all patients are alike, so that nothing says "
            "how far apart is far; give sites of several patients"
        )
    return Shift(math.sqrt(max(0.0, distance - expected) / unit), math.sqrt(expected / unit))


def shifts_of(first: SiteSummary, second: SiteSummary) -> dict[str, Shift]:
    """The shift at each tap that both sites have, in the first one's order.

    Raises:
        InvalidInput: if they were summarised under different networks, or share no tap.
    """
    if first.model != second.model:
        raise InvalidInput(
            f"{first.site} and {second.site} were summarised under different models "
            f"({first.model[:12]}… and {second.model[:12]}…); give both sites one model file"
        )
    found = {
        tap: shift_between(summary, second.taps[tap])
        for tap, summary in first.taps.items()
        if tap in second.taps
    }
    if not found:
        raise InvalidInput(
            f"{first.site} and {second.site} have no tap in common at which both have enough "
            "patients with foreground and background"
        )
    return found


def mean_shift(shifts: Mapping[str, Shift]) -> float:
    """The mean over taps of log(1 + size): one number for a pair, not ruled by its largest tap."""
    return sum(math.log1p(shift.size) for shift in shifts.values()) / len(shifts)

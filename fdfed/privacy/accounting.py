"""ε of a history of releases, by Opacus' Rényi accountant.

A release is the Gaussian mechanism on a sum to which one unit adds at most a vector of norm C:
noise of standard deviation σC on every coordinate. If units enter it by Poisson sampling with
probability q it costs less (Mironov, Talwar & Zhang 2019, arXiv:1908.10530). Releases compose by
adding their Rényi divergences, order by order, and the best order gives ε at δ. Everything is for
neighbours that differ by *one unit added or removed*; exchanging a unit for another counts twice
(norm 2C, so half of σ).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from opacus.accountants import RDPAccountant
from opacus.accountants.analysis import rdp

from fdfed.errors import InvalidInput

ORDERS: Final = (*RDPAccountant.DEFAULT_ALPHAS, 64, 80, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Rényi orders that are tried. Each gives a valid ε; Opacus' own end at 63, which is too low for a
very small ε (much noise, little δ)."""

DERIVED_EXPONENT: Final = 1.1
"""δ = n⁻¹·¹ is below 1/n for every n, if only just."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """`steps` equal releases, one after the other."""

    noise_multiplier: float
    """σ, in units of the largest norm that one unit adds to the sum."""
    sample_rate: float
    """q: the probability with which each unit enters, by Poisson sampling; 1 if all do."""
    steps: int = 1

    def __post_init__(self) -> None:
        if not (self.noise_multiplier > 0 and 0 < self.sample_rate <= 1 and self.steps >= 1):
            raise InvalidInput(
                f"a release has noise_multiplier = {self.noise_multiplier}, sample_rate = "
                f"{self.sample_rate} and steps = {self.steps}; the noise must be above 0, the rate "
                "above 0 and at most 1, and there is at least one step"
            )


def epsilon_of(releases: Iterable[Release], *, delta: float) -> float:
    """ε at `delta` of all releases together; 0 without any.

    Raises:
        InvalidInput: if δ is not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise InvalidInput(f"δ is {delta}; it is a probability above 0 and below 1")
    total = np.zeros(len(ORDERS))
    for release in releases:
        total += release.steps * _divergences(release.noise_multiplier, release.sample_rate)
    if not total.any():
        return 0.0
    with warnings.catch_warnings():
        # "The optimal order is the smallest (largest)": ε is then an upper bound, as it must be.
        warnings.simplefilter("ignore", UserWarning)
        epsilon, _ = rdp.get_privacy_spent(orders=ORDERS, rdp=total, delta=delta)
    return float(epsilon)


@lru_cache(maxsize=1024)
def _divergences(noise_multiplier: float, sample_rate: float) -> NDArray[np.float64]:
    """The Rényi divergence of one release, one an order.

    Kept, because it takes a third of a second where units are sampled, and a run has two kinds.
    """
    return np.asarray(
        rdp.compute_rdp(
            q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=list(ORDERS)
        )
    )


def derived_delta(units: int) -> float:
    """δ = n⁻¹·¹ for n units.

    Raises:
        InvalidInput: for fewer than two, where it is no probability below 1.
    """
    if units < 2:
        raise InvalidInput(
            f"δ cannot be derived from {units} training unit(s): n⁻¹·¹ is not below 1. A site of "
            "one patient cannot have differential privacy that means anything"
        )
    return float(units**-DERIVED_EXPONENT)


def checked_delta(delta: float, units: int) -> float:
    """`delta`, if it means something for so many units.

    Raises:
        InvalidInput: if δ is above 1/n: publishing one unit drawn at random would satisfy it.
    """
    if delta > 1 / units:
        raise InvalidInput(
            f"privacy.delta = {delta} is above 1/{units}, the inverse of this site's training "
            "units, so that publishing one of them whole would be within it; lower it, or say "
            'delta = "derived"'
        )
    return delta

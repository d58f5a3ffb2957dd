"""How much of one site's update enters the average, whatever the site sends.

An honest site cannot be told from a hostile one by a single update, but it cannot go far either:
a step of AdamW moves a weight by about the learning rate at most, and one site's round is much
like the others' and like the round before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdfed.config import RunPlan
from fdfed.errors import WireError
from fdfed.evaluation.results import RoundRecord

_ROUNDS: Final = 3
"""Rounds that the median is taken over: norms shrink as training settles."""
_REACH: Final = 2.0
"""Of the cap, in learning rates by which every step moves every weight. The first step of AdamW
moves each by one; over a round, honest sites came to 0.76 at most."""
_REFUSED_ABOVE: Final = 5.0
"""Times the cap, ten learning rates. β₁ = 0.9 and β₂ = 0.999 let a step of AdamW move a weight by
no more than (1 - β₁) / √((1 - β₂)(1 - β₁²/β₂)) = 7.3 of them (Cauchy-Schwarz on m / √v), and weight
decay by next to nothing."""
_DEVIATIONS: Final = 10.0
"""Standard deviations that a running mean may move in a round, and what a running variance may grow
by as a standard deviation."""
_PASSES: Final = 10
"""Forward passes that a step may count."""


@dataclass(frozen=True, slots=True)
class Bounded:
    """An update as it enters the average."""

    weights: Mapping[str, NDArray[Any]]
    """The very mapping that came where nothing is changed, so that an honest round keeps its
    bits."""
    square_move: float
    """‖W_s - W‖² of the trained tensors, as they enter."""
    scaled_to: float | None = None
    """The norm that the move was scaled down to; None if it was not."""
    clipped: int = 0
    """Running statistics and counters that were clipped."""


class UpdateBound:
    """The bound of one round.

    Args:
        reference: the weights that the sites started from.
        trained: names of the trained tensors; all others are running statistics and counters.
        history: of the run's rounds so far.
        server_round: the round that is aggregated.
    """

    def __init__(
        self,
        plan: RunPlan,
        reference: Mapping[str, NDArray[Any]],
        *,
        trained: frozenset[str],
        history: Sequence[RoundRecord],
        server_round: int,
    ) -> None:
        self._plan = plan
        self._reference = reference
        self._trained = trained
        self._cap = update_cap(plan, [reference[name] for name in sorted(trained)], server_round)
        usual = usual_move(history, phase=plan.phase(server_round))
        factor = plan.defence.norm_factor
        self.limit = self._cap if usual is None else min(self._cap, factor * usual)
        """The largest norm that enters."""

    def apply(self, weights: Mapping[str, NDArray[Any]], square_move: float) -> Bounded:
        """The update, with no more than the bound of it left.

        Args:
            weights: of the reference's names, shapes and dtypes, and finite.
            square_move: ‖W_s - W‖² of the trained tensors.

        Raises:
            WireError: if it is so far beyond the bound that no training made it, or a running
                variance is negative.
        """
        move = math.sqrt(square_move)
        if not move <= _REFUSED_ABOVE * self._cap:
            raise WireError(
                f"the update moves the weights by {move:.4g}, and nothing above "
                f"{_REFUSED_ABOVE * self._cap:.4g} comes from {self._plan.steps_per_round} steps "
                "of this plan; its agent is broken or hostile (defence.max_update_norm)"
            )
        clipped = self._clipped_statistics(weights)
        scale = None if move <= self.limit else self.limit / move
        if scale is None and not clipped:
            return Bounded(weights, square_move)
        return Bounded(
            _Shortened(weights, self._reference, self._trained, scale, clipped),
            square_move if scale is None else self.limit**2,
            scaled_to=None if scale is None else self.limit,
            clipped=sum(int((value != weights[name]).sum()) for name, value in clipped.items()),
        )

    def _clipped_statistics(self, weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The running statistics and counters that are out of range, clipped.

        With μ and v as they were sent to the site, a mean stays within μ ± 10 (√v + 1), a variance
        below 100 (v + 1), and a counter within ten passes a step. They follow no gradient and can
        move far in a round, above all in the first ones: from 0 and 1.
        """
        clipped = {}
        for name in self._reference:
            if name in self._trained:
                continue
            value = weights[name]
            if name.endswith("running_var") and (value < 0).any():
                raise WireError(f"the running variance {name!r} of the update is negative")
            low, high = self._range(name)
            if ((value < low) | (value > high)).any():
                clipped[name] = np.clip(value, low, high).astype(value.dtype, copy=False)
        return clipped

    def _range(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        own = self._reference[name]
        if own.dtype.kind != "f":
            room = np.int64(_PASSES * self._plan.steps_per_round)
            return own, own + room
        if name.endswith("running_var"):
            return np.zeros_like(own), _DEVIATIONS**2 * (own + 1)
        variance = self._reference.get(name.removesuffix("running_mean") + "running_var")
        spread = np.abs(own) if variance is None else np.sqrt(variance)
        return own - _DEVIATIONS * (spread + 1), own + _DEVIATIONS * (spread + 1)


def update_cap(plan: RunPlan, trained: Sequence[NDArray[Any]], server_round: int) -> float:
    """The norm beyond which no update counts, whatever the rounds before were like.

    AdamW: 2 · steps · the round's learning rate · √d for d trained weights, that of a round whose
    every step moves every weight by two learning rates, always in one direction. SGD has no such
    bound; there it is ‖W‖.

    Args:
        trained: the trained tensors that the sites started from.
    """
    if plan.defence.max_update_norm is not None:
        return plan.defence.max_update_norm
    if plan.optimizer == "adamw":
        count = sum(value.size for value in trained)
        rate = plan.learning_rate_in(server_round)
        return _REACH * plan.steps_per_round * rate * math.sqrt(count)
    return math.sqrt(sum(float(np.square(value.astype(np.float64)).sum()) for value in trained))


def usual_move(history: Sequence[RoundRecord], *, phase: int) -> float | None:
    """The median norm of the updates that entered the last rounds of a phase; None if none did.

    As they entered, so that a site gains nothing by sending more. Of an even number the lower one
    of the middle two: with half of the sites hostile it is no longer than an honest one.
    """
    rounds = [record for record in history if record.phase == phase][-_ROUNDS:]
    norms = sorted(
        entry.drift if entry.bounded_to is None else entry.bounded_to
        for record in rounds
        for entry in record.sites.values()
        if entry.refused is None and entry.drift is not None
    )
    usual = norms[(len(norms) - 1) // 2] if norms else 0.0
    return usual if usual > 0 else None


class _Shortened(Mapping[str, NDArray[Any]]):
    """W + scale · (W_s - W) for the trained tensors, made anew whenever one is read, so that it
    takes the memory of one tensor."""

    def __init__(
        self,
        weights: Mapping[str, NDArray[Any]],
        reference: Mapping[str, NDArray[Any]],
        trained: frozenset[str],
        scale: float | None,
        clipped: Mapping[str, NDArray[Any]],
    ) -> None:
        self._weights, self._reference = weights, reference
        self._trained, self._scale, self._clipped = trained, scale, clipped

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name in self._clipped:
            return self._clipped[name]
        value = self._weights[name]
        if self._scale is None or name not in self._trained:
            return value
        own = self._reference[name].astype(np.float64)
        shortened = own + self._scale * (value - own)
        return np.asarray(shortened, dtype=value.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

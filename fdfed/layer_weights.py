"""α: how much each tap's discrepancy loss weighs, and how that weight moves from round to round.

α is one global vector with an entry per tap. It is zero in phase 1, and constant within a round.
After a round of phase 2 each site proposes its next α from the losses it saw (`propose`), and the
strategy averages the proposals by the sites' examples and then clips them (`aggregate`). Clipping
once, after the mean, keeps the mean of proposals the proposal of the mean.

Why the default is not the paper's rule. The paper trains α with the network, by gradient descent
on α L, and says that it rises from zero. But d(α L)/dα = L: where L > 0, as in all of the paper's
Fig. 1(a), descent lowers α, and the clip holds it at zero for ever; where L < 0 it raises α
without end, and L falls the faster. `dual` turns the sign around, as the method of multipliers does
for a constraint L_l <= c_l (Bertsekas, Nonlinear Programming, which the paper cites for α): α rises
while the loss is above its target c_l, falls once it is below, and so limits itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from fdfed.config import AlphaPlan
from fdfed.errors import InvalidInput


def weighed_taps(taps: Sequence[str], plan: AlphaPlan) -> Bool[ndarray, " taps"]:
    """Which taps may have a weight above zero.

    Raises:
        InvalidInput: if the plan names a tap that the network does not have, or none at all.
    """
    if plan.taps is None:
        return np.ones(len(taps), dtype=np.bool_)
    foreign = [name for name in plan.taps if name not in taps]
    if foreign or not plan.taps:
        raise InvalidInput(
            f"alpha.taps names {', '.join(foreign) or 'no tap'}; the network's are "
            f"{', '.join(taps)}. Name some of these, or leave alpha.taps out"
        )
    return np.array([name in plan.taps for name in taps], dtype=np.bool_)


def starting_alpha(taps: int, *, plan: AlphaPlan, phase_2_rounds: int) -> Float64[ndarray, " taps"]:
    """α of the first round of phase 2.

    Zero, except that `fixed` starts at its value, and that `ramp` has no later round to reach its
    maximum in if phase 2 is a single round.
    """
    if plan.mode == "fixed":
        return np.full(taps, plan.value)
    if plan.mode == "ramp" and phase_2_rounds <= 1:
        return np.full(taps, plan.maximum)
    return np.zeros(taps)


def propose(
    alpha: Float64[ndarray, " taps"],
    losses: Float64[ndarray, " taps"],
    target: Float64[ndarray, " taps"] | None,
    *,
    plan: AlphaPlan,
) -> Float64[ndarray, " taps"]:
    """A site's proposal for the next α, not clipped:

        dual:         α + η (L - c)
        paper:        α - η L
        ramp, fixed:  α      (the strategy moves it, or nothing does)

    In the first round of phase 2 there is no target c yet. `dual` then proposes α + η · margin,
    which is what the equation gives for c = L - margin, the target that this round's own losses
    will set (`target_of`).

    Args:
        alpha: α of the round that ends.
        losses: L, this site's mean of L_fd + L_exch over the round, by tap; NaN where no batch was
            valid. Such a tap proposes no change.
        target: c, by tap; None before it exists. NaN where no site could measure a tap, which is
            then treated as one without a target.
        plan: mode, rate η and margin.

    Raises:
        InvalidInput: if the lengths differ, or a loss is infinite.
    """
    _same_length(alpha=alpha, losses=losses, target=target)
    if np.isinf(losses).any():
        raise InvalidInput(
            "a tap's mean discrepancy loss is infinite, so α has no next value; check the round's "
            "losses for overflow (a lower learning_rate, or precision = fp32)"
        )
    if plan.mode in ("ramp", "fixed"):
        return alpha.copy()
    if plan.mode == "paper":
        step = -plan.rate * losses
    else:
        excess = np.full_like(losses, plan.margin) if target is None else losses - target
        step = plan.rate * np.where(np.isnan(excess), plan.margin, excess)
    return alpha + np.where(np.isnan(losses), 0.0, step)


def aggregate(
    proposals: Float64[ndarray, "sites taps"],
    weights: Float64[ndarray, " sites"],
    *,
    plan: AlphaPlan,
    phase_2_round: int,
    phase_2_rounds: int,
) -> Float64[ndarray, " taps"]:
    """The next α: the weighted mean of the sites' proposals, clipped to [0, maximum].

    In mode `paper` the clip is [0, 1]. `ramp` ignores the proposals: it gives round r + 1 of R the
    α = maximum · r / (R - 1), so that the first round of phase 2 has zero and the last the
    maximum. `fixed` gives its value.

    Args:
        proposals: a row per site, from `propose`.
        weights: training images of each site, or shares of them.
        phase_2_round: r, the round of phase 2 that has just ended; the first is 1.
        phase_2_rounds: R, rounds of phase 2 in all.

    Raises:
        InvalidInput: if a proposal is not finite, or the weights do not sum to a positive number.
    """
    if plan.mode == "fixed":
        return np.full(proposals.shape[-1], plan.value)
    if plan.mode == "ramp":
        progress = min(1.0, phase_2_round / max(1, phase_2_rounds - 1))
        return np.full(proposals.shape[-1], plan.maximum * progress)
    if not np.isfinite(proposals).all():
        raise InvalidInput(
            "a site proposed an α that is not finite; refuse its update before aggregation"
        )
    maximum = 1.0 if plan.mode == "paper" else plan.maximum
    return _weighted_mean(proposals, weights).clip(0.0, maximum)


def target_of(
    losses: Float64[ndarray, "sites taps"], weights: Float64[ndarray, " sites"], *, margin: float
) -> Float64[ndarray, " taps"]:
    """c, the target of `dual`: the weighted mean of the sites' losses less `margin`, by tap.

    Taken from the first round of phase 2 and kept. NaN at a tap that no site could measure; a
    site that could not is left out of the mean.

    Args:
        losses: a row per site; NaN where a site had no valid batch.
        weights: training images of each site, or shares of them.
        margin: in nats, see `AlphaPlan.margin`.

    Raises:
        InvalidInput: if the weights do not sum to a positive number.
    """
    return _weighted_mean(losses, weights) - margin


def _weighted_mean(
    values: Float64[ndarray, "sites taps"], weights: Float64[ndarray, " sites"]
) -> Float64[ndarray, " taps"]:
    """Σ w v / Σ w down each column, over the entries that are not NaN; NaN if all are."""
    if values.shape[:1] != weights.shape or not np.all(weights >= 0) or not weights.sum() > 0:
        raise InvalidInput(
            f"{len(values)} rows of α or losses came with the weights {weights.tolist()}; give one "
            "non-negative number of training images for each site, and at least one above zero"
        )
    known = ~np.isnan(values)
    mass = weights[:, None] * known
    total = mass.sum(0)
    mean = np.full(total.shape, np.nan)
    np.divide((np.where(known, values, 0.0) * mass).sum(0), total, out=mean, where=total > 0)
    return mean


def _same_length(
    *,
    alpha: Float64[ndarray, " _"],
    losses: Float64[ndarray, " _"],
    target: Float64[ndarray, " _"] | None,
) -> None:
    lengths = [len(vector) for vector in (alpha, losses, target) if vector is not None]
    if len(set(lengths)) > 1:
        raise InvalidInput(
            f"α, losses and target have {lengths} taps; they must belong to one network"
        )

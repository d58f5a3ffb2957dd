"""The `[run.privacy]` table: differential privacy, its budget, and what is released under it.

No value that decides privacy has a default. Without the table a run has no differential privacy,
and no ε is printed anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field

from fdfed.config.frozen import Frozen

if TYPE_CHECKING:
    from fdfed.config.run_plan import RunPlan

Unit = Literal["patient", "image"]

MAX_DIMENSIONS: Final = 16
"""Noise grows with the square root of the dimensions, the signal does not: `method.md` 6.6."""


class WeightsPrivacy(Frozen):
    """DP-SGD on the weights (Abadi et al. 2016, arXiv:1607.00133, Algorithm 1)."""

    noise_multiplier: float = Field(gt=0)
    """σ: standard deviation of the noise on the sum of clipped gradients, in units of
    `max_grad_norm`."""
    max_grad_norm: float = Field(gt=0)
    """C: the gradient of one unit is scaled down to this Euclidean norm."""


class PrototypesPrivacy(Frozen):
    """One noisy sum of projected prototypes a round (`fdfed.privacy.prototype_release`)."""

    noise_multiplier: float = Field(gt=0)
    """σ: standard deviation of the noise on the sum, in units of `max_norm`."""
    max_norm: float = Field(gt=0)
    """R: the joint vector of one unit, over all taps, F and B, is scaled down to this norm."""
    dimensions: int = Field(ge=1, le=MAX_DIMENSIONS)
    """k: dimensions that a public random projection leaves of each tap's F and of its B."""


class PrivacyPlan(Frozen):
    """(ε, δ)-differential privacy of each site's training units, by add or remove of one."""

    epsilon: float = Field(gt=0)
    """The budget: a site that would spend more stops training. Over everything that its ledger
    holds, earlier runs included."""
    delta: float | Literal["derived"]
    """δ in (0, 1); `derived` is n⁻¹·¹ for the n training units of a site."""
    unit: Unit
    """What is protected. `patient` is a whole patient where `patients.csv` says who that is, and
    one image at a site without that file; `image` is one image everywhere."""
    weights: WeightsPrivacy | Literal["unprotected"]
    """`unprotected`: weights leave without noise, and ε speaks of the prototypes alone."""
    prototypes: PrototypesPrivacy | None = None
    """`None`: no prototype leaves."""
    images_per_unit: int = Field(default=4, ge=1)
    """A patient with more images trains on so many of them, drawn anew, each time it is drawn.
    Decides time and memory, not privacy."""

    def summary(self) -> str:
        """What is protected, in a line for a log; speaks of no run's ε."""
        parts = ["weights"] if self.weights != "unprotected" else []
        parts += ["prototypes (once a round)"] if self.prototypes is not None else []
        bare = "; WEIGHTS LEAVE WITHOUT NOISE and are not in ε" if "weights" not in parts else ""
        return (
            f"differential privacy of {' and '.join(parts)}{bare}; exactness is off, and the run "
            "does not repeat bit for bit"
        )

    def problems(self, plan: RunPlan) -> Iterator[str]:
        """What else in the plan has no meaning, or no guarantee, beside this table."""
        if self.delta != "derived" and not 0 < self.delta < 1:
            yield f"privacy.delta = {self.delta} is no probability between 0 and 1"
        if self.weights == "unprotected" and self.prototypes is None:
            yield "privacy protects nothing: give [run.privacy.weights], prototypes, or both"
        yield from _unfit_training(plan)
        yield from self._unfit_loss(plan)

    def _unfit_loss(self, plan: RunPlan) -> Iterator[str]:
        loss, exchanges = plan.effective_loss, plan.effective_loss == "fd+exch"
        if plan.auxiliary_loss is not None:
            yield f"loss = {loss} couples the images of a batch; use seg, fd or fd+exch"
        if exchanges and self.prototypes is None:
            yield "loss = fd+exch releases prototypes; give [run.privacy.prototypes], or loss = fd"
        if not exchanges and self.prototypes is not None:
            yield f"loss = {loss} releases no prototypes; remove [run.privacy.prototypes]"
        if plan.has_discrepancy and plan.alpha.mode not in ("fixed", "ramp"):
            yield (
                f"alpha.mode = {plan.alpha.mode} follows the training losses, a release that no "
                "noise covers; use fixed or ramp"
            )
        if exchanges and plan.exchange.required:
            yield "exchange.required = true speaks of steps, but prototypes leave once a round here"


def releases_prototypes(plan: RunPlan, server_round: int) -> bool:
    """Whether a site releases its prototypes in that round: those of phase 2 but the last, after
    which no round would use them."""
    if plan.privacy is None or plan.privacy.prototypes is None:
        return False
    return plan.phase(server_round) == 2 and server_round < plan.rounds


def _unfit_training(plan: RunPlan) -> Iterator[str]:
    if plan.strategy not in ("fdfed", "fedavg"):
        reason = {
            "local": "releases nothing, so that there is nothing to protect",
            "pooled": "puts all images in one place",
            "fedbn": "keeps the norms at the site, which private training here does not do",
        }.get(plan.strategy, "has no per-unit form here")
        yield f"strategy = {plan.strategy} {reason}; use fdfed or fedavg"
    if plan.norm != "group":
        yield (
            "norm = batch makes one image's features depend on the others of its batch, so that no "
            "bound on one unit's influence holds; set norm = group"
        )
    if plan.aggregation == "masked":
        yield (
            "aggregation = masked hides each site's update, and no run has tried both together; "
            "use aggregation = plain"
        )
    if plan.aggregation == "robust":
        yield (
            "aggregation = robust takes the middle of few updates, and the noise that privacy adds "
            "to each averages out in a mean alone; use aggregation = plain"
        )
    if plan.precision not in ("fp32", "fp64"):
        yield f"precision = {plan.precision} rounds clipping and noise too coarsely; use fp32"

"""The `[run.defence]` table: what bounds a site that is hostile or broken.

Under masks the coordinator sees no single update, so nothing of this can be done there but the
limit on a cotangent, which is the receiving site's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field

from fdfed.config.frozen import Frozen

if TYPE_CHECKING:
    from fdfed.config.run_plan import RunPlan

LEAST_SITES: Final = 3
"""Of a median or trimmed mean. The middle of two numbers is their mean, which either of them moves
as far as it likes."""
_ROUNDING: Final = 1e-9
"""0.29 of 100 sites are 29, although 0.29 · 100 is less in floating point."""


class DefencePlan(Frozen):
    """Bounds on one site's influence (`docs/METHOD.md`, section on hostile sites)."""

    update_bound: Literal["on", "off"] = "on"
    """Whether a site's update is scaled down to a largest norm, and its running statistics are
    clipped, before they enter the mean. Not with `aggregation = "masked"`."""
    norm_factor: float = Field(default=6.0, ge=1, le=1e6)
    """An update counts up to this many times the median norm of the last rounds of its phase."""
    max_update_norm: float | None = Field(default=None, gt=0)
    """... and never beyond this norm; five times of it is refused. `None`: what the optimiser can
    reach in a round, twice over (AdamW), or the norm of the weights themselves (SGD)."""
    robust: Literal["trimmed_mean", "median"] = "trimmed_mean"
    """What `aggregation = "robust"` is, in each coordinate; sites count equally."""
    trim: float = Field(default=1 / 3, gt=0, lt=0.5)
    """Share of the sites that `trimmed_mean` leaves out at either end, rounded down."""

    def cut_of(self, sites: int) -> int:
        """How many of so many sites are left out at either end; the median leaves one or two."""
        if self.robust == "median":
            return (sites - 1) // 2
        return int(self.trim * sites + _ROUNDING)

    def too_few(self, sites: int) -> str | None:
        """Why so many sites are too few for a robust average; None if they are not."""
        if sites < LEAST_SITES:
            return (
                f"aggregation = robust needs {LEAST_SITES} sites: one of {sites} moves their middle"
            )
        if self.cut_of(sites) < 1:
            return (
                f"defence.trim = {self.trim:g} of {sites} sites leaves none out, so that one of "
                "them moves the mean as far as it likes"
            )
        return None

    def problems(self, plan: RunPlan) -> Iterator[str]:
        """What has no meaning beside the rest of the plan."""
        if plan.aggregation == "masked" and self.max_update_norm is not None:
            yield (
                "defence.max_update_norm bounds single updates, and with aggregation = masked "
                "nobody sees one; remove it, or use aggregation = plain"
            )
        if self.update_bound == "off" and self.max_update_norm is not None:
            yield (
                "defence.max_update_norm has no effect with defence.update_bound = off; remove "
                "one of them"
            )
        if plan.aggregation == "robust" and plan.sites:
            yield from self._unfit_sites(plan)

    def _unfit_sites(self, plan: RunPlan) -> Iterator[str]:
        sites, quorum = len(plan.sites), plan.quorum_of(len(plan.sites))
        if (why := self.too_few(sites)) is not None:
            yield f"{why}; name more sites, raise defence.trim, or use aggregation = plain"
        elif (why := self.too_few(quorum)) is not None:
            yield f"quorum = {quorum}: {why}; raise quorum or defence.trim"

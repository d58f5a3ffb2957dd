"""The `[run.defence]` table: what bounds a site that is hostile or broken.

Under masks the coordinator sees no single update, so nothing of this can be done there but the
limit on a cotangent, which is the receiving site's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from fdfed.config import RunPlan


class DefencePlan(BaseModel):
    """Bounds on one site's influence (`docs/METHOD.md`, section on hostile sites)."""

    # `fdfed.config` has this base too, but imports this module.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    update_bound: Literal["on", "off"] = "on"
    """Whether a site's update is scaled down to a largest norm, and its running statistics are
    clipped, before they enter the mean. Not with `aggregation = "masked"`."""
    norm_factor: float = Field(default=6.0, ge=1, le=1e6)
    """An update counts up to this many times the median norm of the last rounds of its phase."""
    max_update_norm: float | None = Field(default=None, gt=0)
    """... and never beyond this norm; five times of it is refused. `None`: what the optimiser can
    reach in a round, twice over (AdamW), or the norm of the weights themselves (SGD)."""

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

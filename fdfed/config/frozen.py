"""What every configuration model is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""Of rounds, steps, sites and the like: a million is more than any run has, and small enough for
every computation with it."""
Seconds = Annotated[float, Field(gt=0, le=10_000_000)]
"""Up to 115 days: threads cannot wait for centuries."""
SiteName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class Frozen(BaseModel):
    """Base of every configuration model: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

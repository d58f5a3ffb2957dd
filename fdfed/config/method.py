"""The `[run.method]` and `[run.alpha]` tables, and the presets that fill them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from fdfed.config.frozen import Frozen
from fdfed.errors import InvalidInput

AlphaMode = Literal["dual", "ramp", "paper", "fixed"]
TapName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$")]


class AlphaPlan(Frozen):
    """How the weight α of each tap moves in phase 2 (`docs/METHOD.md`, section on α)."""

    mode: AlphaMode = "dual"
    maximum: float = Field(default=0.01, ge=0)
    """Upper end of the clip, and the end of `ramp`."""
    rate: float = Field(default=0.004, gt=0)
    """Step η of `dual` and `paper`, per round."""
    margin: float = Field(default=0.5, gt=0)
    """`dual` asks for a loss this much (in nats) below the one measured as phase 2 begins."""
    value: float = Field(default=0.01, ge=0)
    """α in mode `fixed`."""
    taps: tuple[TapName, ...] | None = None
    """The taps that may have a weight, such as `Bot`; all others stay at zero. `None`: all."""


class MethodPlan(Frozen):
    """The form of prototypes and losses; the defaults are the equations with masked average pooling
    and prototypes of length 1 (`docs/METHOD.md`)."""

    pooling: Literal["map", "sum"] = "map"
    mask_pooling: Literal["max", "dual_max"] = "max"
    bound: Literal["none", "normalise", "cap"] = "normalise"
    """What keeps the loss from falling without end: prototypes of length 1, or a largest distance
    that counts."""
    form: Literal["paper", "ratio", "gap"] = "paper"
    """Cross-site term: Eq. 4, or one of the two that penalise a shift between sites."""
    eps: float = Field(default=1e-6, gt=0)

    @property
    def exchange_bound(self) -> Literal["none", "cap"]:
        """The bound of the cross-site term on the prototypes that arrive: a site that normalises
        them has done so before it sends."""
        return "cap" if self.bound == "cap" else "none"


_PRESETS: Final[dict[str, tuple[bool, str, MethodPlan, AlphaPlan]]] = {
    "paper": (
        True,
        "best",
        MethodPlan(pooling="sum", mask_pooling="max", bound="none", form="paper"),
        AlphaPlan(mode="paper"),
    ),
    "fdfed": (True, "last", MethodPlan(), AlphaPlan()),
}


def preset(name: str) -> dict[str, Any]:
    """What a `[run]` table says of the phases, and its `method` and `alpha` tables whole, by the
    name of a preset.

    `paper`: Definition 1 (sums over pixels), Eq. 1 and Eq. 4 without a bound, and α learned by
    gradient descent on α L and clipped to [0, 1], from the best weights of a phase without them.
    `fdfed`: the defaults. Neither says which loss or strategy is trained. A `[run]` table takes one
    by `preset = "paper"`, and what it says itself comes first.

    Raises:
        InvalidInput: for any other name.
    """
    if name not in _PRESETS:
        raise InvalidInput(f"the preset {name} is not known; use one of: {', '.join(_PRESETS)}")
    warm_start, phase_2_start, method, alpha = _PRESETS[name]
    return {
        "warm_start": warm_start,
        "phase_2_start": phase_2_start,
        "method": method.model_dump(mode="json"),
        "alpha": alpha.model_dump(mode="json"),
    }

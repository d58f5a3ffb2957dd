"""Bounds that keep -log(D) from falling without end.

D grows with the square of the features' scale, so a network can lower -log(D) for ever by scaling
its features up, without separating anything. The paper's Lemma 2 does not prevent it: its proof
bounds the weights from below.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Bound = Literal["none", "normalise", "cap"]
"""`none`: the literal equation. `normalise`: prototypes are scaled to length 1 first. `cap`: D
counts up to a largest value only, beyond which the gradient is zero."""

CAP_WITHIN: Final = 4.0
"""Largest D of `cap` for one pair of prototypes: that of two opposite unit vectors."""
CAP_ACROSS: Final = 8.0
"""Largest D of `cap` for L_exch, which adds two such pairs."""


def negative_log(
    squared_distance: Float[Tensor, "*shape"], *, cap: float | None, eps: float
) -> Float[Tensor, "*shape"]:
    """-log(D + ε), or -log(min(D, cap) + ε)."""
    if cap is not None:
        squared_distance = squared_distance.clamp_max(cap)
    return -torch.log(squared_distance + eps)

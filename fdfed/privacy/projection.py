"""A public random projection of each tap's prototypes to a few dimensions.

Noise of a fixed size on every coordinate grows with √C, a prototype does not: without projection a
tap of 512 channels drowns (`docs/METHOD.md`). A random projection keeps distances on average
(Johnson & Lindenstrauss); it hides nothing and is no part of the privacy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from fdfed.data.seeds import generator
from fdfed.exchange import TapLayout


def projections(
    layout: TapLayout, *, dimensions: int, seed: int
) -> dict[str, Float[Tensor, "dimensions channels"]]:
    """P_l by tap, in fp64: entries ±1/√k, each with probability 1/2.

        E[|P_l x|²] = |x|²

    Source: Achlioptas 2003, Theorem 1.1, the form with two values. Signs are the same bits on every
    machine, which a seeded Gaussian need not be. Departure: a tap that has no more than k channels
    is left as it is. F and B of a tap share one map, or their differences would mean nothing.

    Args:
        seed: of the plan, so that all sites use the same maps.
    """
    made: dict[str, Tensor] = {}
    for name, width in zip(layout.names, layout.channels, strict=True):
        if width <= dimensions:
            made[name] = torch.eye(width, dtype=torch.float64)
            continue
        signs = generator("projection", seed, name).integers(0, 2, size=(dimensions, width))
        made[name] = torch.from_numpy((2.0 * signs - 1) / math.sqrt(dimensions))
    return made


def project(
    projection: Mapping[str, Float[Tensor, "dimensions channels"]],
    prototypes: Mapping[str, Float[Tensor, "batch _"]],
) -> Float[Tensor, "batch size"]:
    """P_l p_l of all taps, one after the other, for each image; carries the gradient."""
    return torch.cat([prototypes[n] @ P.to(prototypes[n]).mT for n, P in projection.items()], dim=1)

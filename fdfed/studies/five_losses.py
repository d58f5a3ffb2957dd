"""The five losses of the paper's Figures 7 and 10, and which method of the comparison trains each.

What is set against L_fd here is the *same* training without it: federated averaging in its base
configuration, not in the one that its own tuning chose for the comparison. Without a discrepancy
loss the two then make the same first phase, bit for bit, and differ in nothing but that loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fdfed.studies.baselines.configuration import BASE


@dataclass(frozen=True, slots=True)
class Recipe:
    """A method of the comparison in one of its configurations."""

    method: str
    candidate: str | None = None
    """None is the one that was chosen."""


WITHOUT: Final = "no L_fd"
WITH: Final = "L_fd"
MATCHED: Final = Recipe("fedavg", BASE)
"""Training without L_fd, in all else like that with it."""

FIVE_LOSSES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        WITHOUT: MATCHED,
        WITH: Recipe("fd"),
        "L_fd+L_exch": Recipe("fdfed"),
        "L_con": Recipe("fedavg+con"),
        "L_deeps": Recipe("fedavg+deeps"),
    }
)

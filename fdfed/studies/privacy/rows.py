"""One measured number of the study, with what it is to be compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PARTS: Final = ("isometry", "peer", "reconstruction", "membership")
"""The parts of the study, in the order of the tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What an attack achieved against a defence."""

    part: str
    attack: str
    defence: str
    """`none` where the attacker sees what is computed as it is."""
    setting: str = ""
    """How much the attacker has: pairs, samples, steps, images in a batch."""
    measure: str
    value: float
    low: float | None = None
    """Lower end of a 95 % interval, where there is one."""
    high: float | None = None
    reference: float | None = None
    """The same measure for the best guess without access."""
    n: int
    """Trials, images or patients' images behind the value."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What was attacked how, without the measure."""
        return self.part, self.attack, self.defence, self.setting

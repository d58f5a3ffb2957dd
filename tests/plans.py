"""What the tests of rounds and phases say in every plan, whatever the defaults are."""

from __future__ import annotations

from typing import Any, Final

PHASED: Final[dict[str, Any]] = {
    "norm": "batch",
    "learning_rate": 1e-3,
    "learning_rate_schedule": "constant",
    "warm_start": True,
    "phase_2_start": "best",
    "method": {"bound": "none"},
}
"""Two phases, the second from the best of the first; running statistics to travel; one learning
rate; and the equations to the letter."""

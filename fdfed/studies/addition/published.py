"""What the paper's Fig. 7 shows, read off its points (± 0.3 Dice); columns without a tick label are
left out. In percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TICKS: Final[Mapping[str, tuple[str, ...]]] = {
    "TNBC + MoNuSeg (NuSegNet)": ("alone", "1/4", "1/2", "all"),
    "US-TNBC + UDIAT (CMUNet)": ("alone", "1/16", "1/8", "3/16", "1/4"),
}

DICE: Final[Mapping[str, Mapping[str, tuple[float, ...]]]] = {
    "TNBC + MoNuSeg (NuSegNet)": {
        "no L_fd": (81.7, 81.3, 81.2, 81.1),
        "L_fd": (82.7, 80.9, 82.6, 82.4),
        "L_fd+L_exch": (82.0, 82.7, 83.2, 82.7),
        "L_con": (71.1, 72.9, 76.9, 74.9),
        "L_deeps": (79.5, 80.0, 81.9, 79.4),
    },
    "US-TNBC + UDIAT (CMUNet)": {
        "no L_fd": (49.6, 30.4, 39.3, 44.4, 42.2),
        "L_fd": (50.2, 45.3, 47.5, 49.1, 46.2),
        "L_fd+L_exch": (53.2, 48.9, 49.3, 50.4, 53.0),
        "L_con": (32.2, 35.0, 36.2, 35.5, 34.6),
        "L_deeps": (29.0, 28.1, 34.3, 32.9, 32.4),
    },
}
"""By pair and loss, one value a tick."""

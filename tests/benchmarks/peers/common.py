"""What every system of the comparison has in common: sizes, and a log of events.

It imports nothing but Python's own, since whoever starts a system has no need of more.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

IMAGES = 8
SIDE = 64
LEARNING_RATE = 0.01


def tell(event: str, **details: object) -> None:
    """Appends a line to the run's log."""
    line = json.dumps({"event": event, "time": time.time(), **details})
    with Path(os.environ["PEERS_LOG"]).open("a") as file:
        file.write(line + "\n")

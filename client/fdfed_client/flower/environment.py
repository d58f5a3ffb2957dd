"""How a process that uses Flower must be set up, before Flower is imported where possible."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

_SETTINGS: Final = {
    # Else Flower posts usage events to telemetry.flower.ai. It reads this one when imported.
    "FLWR_TELEMETRY_ENABLED": "0",
    # Else its commands ask api.flower.ai for updates.
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # The agent never takes an app bundle; should that ever change, nothing is installed from one.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def prepare_process(state: Path) -> None:
    """Makes this process safe to use Flower in: quiet, and what it writes closed to others."""
    os.umask(0o077)
    for name in [name for name in os.environ if name.startswith("FLWR_")]:
        del os.environ[name]
    os.environ.update(_SETTINGS, FLWR_HOME=str(state / "flwr"))
    # One line per request, many requests per second, and no news in them.
    logging.getLogger("httpx").setLevel(logging.WARNING)

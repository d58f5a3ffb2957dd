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
    # A hospital's proxy is for the way out; a coordinator on this very machine is not behind it.
    # Python reads the lower-case name first where both are set.
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    spared = dict.fromkeys((*filter(None, given.split(",")), "localhost", "127.0.0.1"))
    os.environ.update(dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(spared)))
    # One line per request, many requests per second, and no news in them.
    logging.getLogger("httpx").setLevel(logging.WARNING)

"""How a process that uses Flower must be set up, before Flower is imported where possible."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_SETTINGS: Final = {
    # Else Flower posts usage events to telemetry.flower.ai. It reads this one when imported.
    "FLWR_TELEMETRY_ENABLED": "0",
    # Else its commands ask api.flower.ai for updates.
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # Else a SuperLink installs what an app bundle lists as its dependencies.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def flower_environment(state: Path, base: Mapping[str, str]) -> dict[str, str]:
    """`base` without any Flower variable that happens to be set, with ours, and with loopback free
    of proxies.

    Flower reads some thirty variables, a few of which open more ports or send data elsewhere; a
    coordinator must not depend on what the shell of the day exports.
    """
    kept = {name: value for name, value in base.items() if not name.startswith("FLWR_")}
    # The coordinator's calls to its own SuperLink must not go to a proxy that the shell names.
    # Python reads the lower-case name first where both are set.
    given = kept.get("no_proxy") or kept.get("NO_PROXY") or ""
    spared = ",".join(dict.fromkeys((*filter(None, given.split(",")), "localhost", "127.0.0.1")))
    ours = {"FLWR_HOME": str(state / "flwr"), "no_proxy": spared, "NO_PROXY": spared}
    return {**kept, **_SETTINGS, **ours}


def prepare_process(state: Path) -> None:
    """Makes this process and its children safe to use Flower in: quiet, and closed to others.

    New files can be read by their owner alone: Flower creates its database readable by all, and
    task tokens are in it in clear.
    """
    os.umask(0o077)
    fresh = flower_environment(state, os.environ)
    os.environ.clear()
    os.environ.update(fresh)
    # One line per request, many requests per second, and no news in them.
    logging.getLogger("httpx").setLevel(logging.WARNING)

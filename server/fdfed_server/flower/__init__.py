"""Every private Flower import of the coordinator, behind functions of our own.

`SuperLink` keeps Flower's server process alive, `run_server_app` runs a `ServerApp` against it, and
`site_nodes` says which nodes are whose. The rest is for grids that live in one process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fdfed.process import lazy

# First: it checks the installed release, before the others import names that may have moved.
from fdfed.wire.flower_release import FLOWER_VERSION

if TYPE_CHECKING:
    from fdfed_server.flower.calls import register_sites
    from fdfed_server.flower.environment import prepare_process
    from fdfed_server.flower.grid import RunGrid, site_nodes
    from fdfed_server.flower.messages import (
        NodeInfo,
        Run,
        empty_run,
        node_info,
        roundtrip,
        set_task_identity,
        stamp,
    )
    from fdfed_server.flower.run import ServerSession, open_run, run_server_app
    from fdfed_server.flower.superlink import SuperLink

__all__ = [
    "FLOWER_VERSION",
    "NodeInfo",
    "Run",
    "RunGrid",
    "ServerSession",
    "SuperLink",
    "empty_run",
    "node_info",
    "open_run",
    "prepare_process",
    "register_sites",
    "roundtrip",
    "run_server_app",
    "set_task_identity",
    "site_nodes",
    "stamp",
]

__getattr__ = lazy.exports(
    __name__,
    {
        "calls": ("register_sites",),
        "environment": ("prepare_process",),
        "grid": ("RunGrid", "site_nodes"),
        "messages": (
            "NodeInfo",
            "Run",
            "empty_run",
            "node_info",
            "roundtrip",
            "set_task_identity",
            "stamp",
        ),
        "run": ("ServerSession", "open_run", "run_server_app"),
        "superlink": ("SuperLink",),
    },
)

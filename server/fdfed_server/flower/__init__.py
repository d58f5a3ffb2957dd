"""Every private Flower import of the coordinator, behind functions of our own."""

from fdfed_server.flower.messages import (
    empty_run,
    node_info,
    roundtrip,
    set_task_identity,
    stamp,
)
from fdfed_server.flower.pin import FLOWER_VERSION

__all__ = [
    "FLOWER_VERSION",
    "empty_run",
    "node_info",
    "roundtrip",
    "set_task_identity",
    "stamp",
]

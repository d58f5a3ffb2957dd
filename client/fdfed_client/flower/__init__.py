"""Every private Flower import of the agent, behind functions of our own.

`run_node` makes this process a Flower node that runs the installed app, and only that.
"""

# First: it checks the installed release, before the others import names that may have moved.
from fdfed.wire.flower_release import FLOWER_VERSION
from fdfed_client.flower.environment import prepare_process
from fdfed_client.flower.fleet import MessageTooLarge
from fdfed_client.flower.node import MAX_MESSAGE_BYTES, run_node
from fdfed_client.flower.presence import Presence

__all__ = [
    "FLOWER_VERSION",
    "MAX_MESSAGE_BYTES",
    "MessageTooLarge",
    "Presence",
    "prepare_process",
    "run_node",
]

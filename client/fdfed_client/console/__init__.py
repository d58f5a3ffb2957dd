"""The hospital's console: what left this building, in words that need no engineer."""

from fdfed_client.console.app import agent_console
from fdfed_client.console.board import AgentBoard

__all__ = ["AgentBoard", "agent_console"]

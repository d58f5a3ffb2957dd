"""The coordinator's console: a page that shows the run as it is, and lets an operator pause it."""

from fdfed_server.console.app import coordinator_console
from fdfed_server.console.board import Board

__all__ = ["Board", "coordinator_console"]

"""The command `fdfed-server`: one file a command."""

from fdfed_server.cli.main import main

__all__ = ["main"]

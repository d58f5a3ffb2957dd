"""The command `fdfed`: one file a command."""

from fdfed.cli.main import main

__all__ = ["main"]

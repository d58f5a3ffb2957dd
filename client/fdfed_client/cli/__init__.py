"""The command `fdfed-client`."""

from fdfed_client.cli.main import main

__all__ = ["main"]

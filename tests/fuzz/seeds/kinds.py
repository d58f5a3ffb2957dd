"""What a maker of seeds gives."""

from collections.abc import Iterator

Seeds = Iterator[tuple[str, str, bytes]]
"""Target, name of the input, and the input."""

"""What a fuzz target is: one parser of foreign bytes, and how it may refuse them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def _encoded(text: str) -> bytes:
    # Also what no UTF-8 may hold: it comes over a wire all the same.
    return text.encode("utf-8", errors="surrogatepass")


@dataclass(frozen=True)
class JsonPart:
    """The JSON within a target's input: a valid text, and the input with another in its place.

    A flipped bit seldom leaves JSON that anyone parses further; the property tests change its
    values instead.
    """

    text: str
    wrap: Callable[[str], bytes] = _encoded


@dataclass(frozen=True)
class Target:
    """One parser, whose `parse` takes any bytes.

    `parse` returns when they are valid, raises one of `refusals` when they are not, and fails (by
    anything else, an AssertionError included) when the parser broke its word.
    """

    name: str
    parse: Callable[[bytes], None]
    refusals: tuple[type[Exception], ...]
    parsers: tuple[str, ...]
    """Modules, by path in the repository, whose branches count."""
    json: tuple[JsonPart, ...] = ()
    max_bytes: int = 4096
    """Of an input made by the fuzzer."""
    cost: int = 1
    """How many times as long as others it takes; its share of the inputs is that much smaller."""

    def accepts(self, data: bytes) -> bool:
        """Whether the parser takes `data`; it refuses them in its documented way otherwise."""
        try:
            self.parse(data)
        except self.refusals:
            return False
        return True

    def seeds(self) -> list[bytes]:
        """The inputs kept in the repository, in the order of their names."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).iterdir())]


_MEMORY = Path("/dev/shm")  # noqa: S108


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for parsers that read files, in memory where the system has that."""
    folder = Path(tempfile.mkdtemp(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)

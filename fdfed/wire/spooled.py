"""The bytes of a large array on disk, read a piece at a time.

Put together in memory, a reply takes its pieces, their concatenation and a copy of it, which is
three times its size; on disk it takes what is being read.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fdfed.errors import InvalidInput


class Extent(NamedTuple):
    """A piece of the file."""

    offset: int
    length: int


class Spool:
    """A file without a name, for its owner alone, that is gone with its last reader.

    Args:
        folder: on whose disk it lies; None is the system's for temporary files.
    """

    def __init__(self, folder: Path | None) -> None:
        self._handle, name = tempfile.mkstemp(dir=folder)
        Path(name).unlink()
        weakref.finalize(self, os.close, self._handle)
        self._end = 0
        self._lock = threading.Lock()

    def add(self, piece: bytes | memoryview) -> Extent:
        """Writes a piece; where it lies. Safe to call from several threads.

        Raises:
            InvalidInput: if the disk does not take it.
        """
        with self._lock:
            extent = Extent(self._end, len(piece))
            self._end += len(piece)
        try:
            written = 0
            while written < len(piece):
                written += os.pwrite(
                    self._handle, memoryview(piece)[written:], extent.offset + written
                )
        except OSError as err:
            raise InvalidInput(
                f"a reply cannot be written to disk ({err.strerror}). The coordinator keeps one "
                "at a time beside its state while it reads it; make room, and start it again: the "
                "last complete round is kept"
            ) from err
        return extent

    def read(self, extent: Extent) -> bytes:
        """A piece that was written."""
        return os.pread(self._handle, extent.length, extent.offset)


class SpooledBytes:
    """Pieces of a spool, one after the other, as if they were one run of bytes.

    Args:
        pieces: in order; one may come twice.
    """

    def __init__(self, spool: Spool, pieces: Sequence[Extent]) -> None:
        self._spool = spool
        self._pieces = tuple(pieces)
        self._length = sum(piece.length for piece in pieces)

    def __len__(self) -> int:
        return self._length

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on, `length` of them or as many as there are."""
        found, start = [], 0
        for piece in self._pieces:
            first, last = max(offset, start), min(offset + length, start + piece.length)
            if first < last:
                part = Extent(piece.offset + first - start, last - first)
                found.append(self._spool.read(part))
            start += piece.length
        return found[0] if len(found) == 1 else b"".join(found)

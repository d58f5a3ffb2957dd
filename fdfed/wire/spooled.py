"""The bytes of a large array on disk, read a piece at a time.

Put together in memory, a reply takes its pieces, their concatenation and a copy of it, which is
three times its size; on disk it takes what is being read.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fdfed.errors import InvalidInput, WireError


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

    def read_into(self, extent: Extent, buffer: memoryview) -> None:
        """Reads a piece that was written into `buffer`, which is as long."""
        done = 0
        while done < extent.length:
            read = os.preadv(self._handle, [buffer[done:]], extent.offset + done)
            if not read:
                raise WireError("ends on disk before its end; something else has cut it short")
            done += read


class SpooledBytes:
    """Pieces of a spool, one after the other, as if they were one run of bytes.

    Args:
        pieces: in order; one may come twice.
    """

    def __init__(self, spool: Spool, pieces: Sequence[Extent]) -> None:
        self._spool = spool
        self._pieces = tuple(piece for piece in pieces if piece.length)
        self._starts = (0, *itertools.accumulate(piece.length for piece in self._pieces))

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on, `length` of them or as many as there are."""
        found = bytearray(max(0, min(length, len(self) - offset)))
        self.read_into(offset, memoryview(found))
        return bytes(found)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fills `buffer` with the bytes from `offset` on; there must be as many."""
        done, number = 0, bisect_right(self._starts, offset) - 1
        while done < len(buffer):
            piece, within = self._pieces[number], offset + done - self._starts[number]
            length = min(len(buffer) - done, piece.length - within)
            part = Extent(piece.offset + within, length)
            self._spool.read_into(part, buffer[done : done + length])
            done, number = done + length, number + 1

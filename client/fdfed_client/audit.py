"""The site's record of what left and what came in: one JSON object a line, chained by hashes.

Each line holds the SHA-256 of the line before it, so that an edit, a deletion or a reorder in the
middle shows. No content is recorded, only kinds, sizes and digests. A line that a crash cut off
stays as it is, and the next one is chained to what there is of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

Direction = Literal["in", "out"]

FIRST: Final = "0" * 64
"""The hash that the first line names as its predecessor's."""

_BLOCK: Final = 4096


class AuditLog:
    """An append-only log; safe to share between threads of one process.

    Args:
        path: created with mode 0600; an existing log is continued.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._size = -1
        self._previous = FIRST
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)

    def append(self, direction: Direction, kind: str, **details: str | int | float) -> None:
        """Writes one line and has it on disk before it returns.

        Args:
            kind: what was sent or received, such as `train` or `prototypes`.
            details: sizes, digests, round numbers; never content, names of files or patients.

        Raises:
            OSError: if the line cannot be written; then nothing may be sent either.
        """
        with self._lock, _opened(self._path) as file:
            if file.seek(0, os.SEEK_END) != self._size:
                self._take_up(file)
            entry: dict[str, Any] = {
                "time": datetime.now(UTC).isoformat(),
                "direction": direction,
                "kind": kind,
                **details,
                "previous": self._previous,
            }
            line = json.dumps(entry, separators=(",", ":")).encode()
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self._size = file.tell()
            self._previous = hashlib.sha256(line).hexdigest()

    def _take_up(self, file: BinaryIO) -> None:
        """Goes on with a log that another process, or a write that failed, left behind."""
        last = _last_line(file)
        if not last:
            self._previous = FIRST
            return
        if not last.endswith(b"\n"):
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
        self._previous = hashlib.sha256(last.rstrip(b"\n")).hexdigest()


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "ab+")


def _last_line(file: BinaryIO) -> bytes:
    """The last line with its end, if it has one; read from the back, since logs grow for years."""
    end = file.seek(0, os.SEEK_END)
    tail = b""
    while end > 0 and b"\n" not in tail[:-1]:
        start = max(0, end - _BLOCK)
        file.seek(start)
        tail = file.read(end - start) + tail
        end = start
    return tail[tail[:-1].rfind(b"\n") + 1 :]

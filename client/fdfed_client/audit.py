"""The site's record of what left and what came in: one JSON object a line, chained by hashes.

Each line holds the SHA-256 of the line before it, so that an edit, a deletion or a reorder in the
middle shows. No content is recorded, only kinds, sizes and digests.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

Direction = Literal["in", "out"]

FIRST: Final = "0" * 64
"""The hash that the first line names as its predecessor's."""


class AuditLog:
    """An append-only log; safe to share between threads of one process.

    Args:
        path: created with mode 0600; an existing log is continued.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._previous = _last_hash(path)

    def append(self, direction: Direction, kind: str, **details: str | int | float) -> None:
        """Writes one line and has it on disk before it returns.

        Args:
            kind: what was sent or received, such as `train` or `prototypes`.
            details: sizes, digests, round numbers; never content, names of files or patients.
        """
        with self._lock:
            entry: dict[str, Any] = {
                "time": datetime.now(UTC).isoformat(),
                "direction": direction,
                "kind": kind,
                **details,
                "previous": self._previous,
            }
            line = json.dumps(entry, separators=(",", ":"))
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, line.encode() + b"\n")
                os.fsync(handle)
            finally:
                os.close(handle)
            self._previous = hashlib.sha256(line.encode()).hexdigest()


def _last_hash(path: Path) -> str:
    if not path.exists():
        return FIRST
    lines = path.read_bytes().splitlines()
    return hashlib.sha256(lines[-1]).hexdigest() if lines else FIRST

"""The writer of an audit log: what it has returned from is on disk, whatever happens next."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.audit.files import LogFiles
from fdfed.audit.line import (
    FIRST,
    Direction,
    Head,
    hash_of,
    public_text,
    read_line,
    write_line,
)
from fdfed.audit.verify import ROTATED, TORN, verify_tail
from fdfed.errors import CryptoError, InvalidInput
from fdfed.files.atomic_file import sync_folder

MAX_BYTES: Final = 8 * 2**20
"""Of a file, before the next one is begun: some 20,000 lines."""


class AuditLog:
    """An append-only log; safe to share between threads, and closed to other processes.

    Args:
        path: the file in use, created with mode 0600. A log that is there is checked and continued.
        key: signs every line. Its public half is in the log's first line.
        max_bytes: size from which on a file is put away as `NAME-000001.log`, and so on.
        watch: told of each line once it is on disk; it must be quick, and must not raise.

    Raises:
        InvalidInput: if another process writes to it.
        CryptoError: if it was altered since it was written.
    """

    def __init__(
        self,
        path: Path,
        *,
        key: ed25519.Ed25519PrivateKey,
        max_bytes: int = MAX_BYTES,
        watch: Callable[[Mapping[str, Any]], None] = lambda line: None,
    ) -> None:
        self._files = LogFiles(path)
        self._key = key
        self._max_bytes = max_bytes
        self._watch = watch
        self._guard = threading.Lock()
        self._file: BinaryIO | None = None
        self._closed = False
        self._number, self._previous = 0, FIRST
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _locked(self._files.lock)
        try:
            self._open()
            self.append("here", "opened", key=public_text(key))
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def head(self) -> str:
        """The hash of the last line: noted elsewhere, it proves later that nothing was cut off."""
        return self._previous

    def append(self, direction: Direction, kind: str, **details: str | int | float | None) -> None:
        """Writes one line and has it on disk before it returns.

        Args:
            kind: what was sent or received, such as `trained` or `prototypes`.
            details: sizes, digests, round numbers; never content, names of files or patients.

        Raises:
            OSError: if the line cannot be written; then nothing may be sent either.
        """
        with self._guard:
            if self._closed:
                raise InvalidInput("the audit log is closed; nothing may leave without it")
            if self._file is None:
                # The last write failed, and may have left a part of its line.
                self._open()
            self._write(direction, kind, details)
            if self._files.active.stat().st_size >= self._max_bytes:
                self._rotate()

    def close(self) -> None:
        """Ends the log in order; a later one goes on from there."""
        with self._guard:
            if self._closed:
                return
            try:
                if self._file is not None:
                    self._write("here", "closed", {})
            finally:
                self._release()

    def _write(self, direction: Direction, kind: str, details: dict[str, Any]) -> None:
        number = self._number + 1
        line = write_line(
            direction, kind, details, number=number, previous=self._previous, key=self._key
        )
        file, self._file = self._file, None
        if file is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        try:
            _whole(file, line + b"\n")
        except OSError:
            file.close()
            raise
        self._file, self._number, self._previous = file, number, hash_of(line)
        self._write_head()
        self._watch(read_line(line).values)

    def _write_head(self) -> None:
        fresh = self._files.head.with_suffix(".head.new")
        with _private(fresh, os.O_TRUNC) as file:
            _whole(file, Head(self._number, self._previous).to_text(self._key))
        fresh.replace(self._files.head)
        sync_folder(self._files.head.parent)

    def _rotate(self) -> None:
        self._write("here", ROTATED, {})
        if self._file is not None:
            self._file.close()
        self._files.active.rename(self._files.next_full())
        self._file = _private(self._files.active, os.O_APPEND)
        sync_folder(self._files.active.parent)
        self._write("here", "continued", {"key": public_text(self._key)})

    def _open(self) -> None:
        """Goes on with what is there, after a look whether it is what was written."""
        before = verify_tail(self._files)
        if not before.sound:
            raise CryptoError(
                f"{self._files.active} is not as it was written: {before.findings[0]}. Nothing is "
                "sent without a sound log. Find out what happened (`fdfed audit verify`), and move "
                "the audit files elsewhere for whoever must see them; a new log then begins"
            )
        if before.last is not None:
            self._number, self._previous = before.last.number, before.last.hash
        self._file = _private(self._files.active, os.O_APPEND)
        sync_folder(self._files.active.parent)
        if before.cut:
            # What was cut off stays as it is, on a line of its own, and is vouched for by its hash.
            _whole(self._file, b"\n")
            self._previous = hash_of(before.cut)
            digest = hashlib.sha256(before.cut).hexdigest()
            self._write("here", TORN, {"bytes": len(before.cut), "sha256": digest})

    def _release(self) -> None:
        self._closed = True
        if self._file is not None:
            self._file.close()
            self._file = None
        os.close(self._lock)


def _private(path: Path, flag: int) -> BinaryIO:
    """`path` for writing, readable by its owner alone; without a buffer, which could write later
    what has been reported as failed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o600)
    return os.fdopen(descriptor, "wb", buffering=0)


def _whole(file: BinaryIO, data: bytes) -> None:
    if file.write(data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file.fileno())


def _locked(path: Path) -> int:
    """Holds the lock; the kernel drops it with the process, however that ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        os.close(handle)
        raise InvalidInput(
            f"another process writes to {path.with_suffix('.log')}: an agent runs on this state "
            "folder already. Stop it, or give this one another state in site.toml"
        ) from err
    return handle

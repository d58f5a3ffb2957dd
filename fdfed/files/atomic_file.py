"""Files that are either the old one or the whole new one, never half of either."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A fresh path beside `path` to write to; it becomes `path` when the block ends well.

    The content reaches the disk before the name does, so that a power cut cannot leave an empty
    file under the final name. If the block raises, `path` is as it was. Folders are made as needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: image writers choose their format by it.
    part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """`text` as UTF-8 under `path`, atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def sync_folder(folder: Path) -> None:
    """Makes the rename itself durable; a no-op where a folder cannot be opened (Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

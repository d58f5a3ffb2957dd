"""Files that only their owner can read: keys, and what lies beside them."""

from __future__ import annotations

import os
from pathlib import Path


def private_folder(folder: Path) -> None:
    """Makes the folder, and those above it that are missing, so that only their owner can enter.

    (`Path.mkdir` gives its mode to the last of them alone.)
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, content: bytes) -> None:
    """Writes a new file that only its owner can read, in a folder that only its owner can enter.

    Raises:
        FileExistsError: if there is one already; a key is never overwritten.
    """
    private_folder(path.parent)
    path.parent.chmod(0o700)
    # Created with its final mode: a later chmod would leave a moment in which others can open it.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_private(path: Path, content: bytes) -> None:
    """The same for a file that may be there already; it is the old one or the new one, whole."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    write_private(fresh, content)
    fresh.replace(path)


def line(text: str) -> bytes:
    """`text` and the end of its line, as a key file holds it."""
    return f"{text}\n".encode()

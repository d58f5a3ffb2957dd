"""What a disk that is full, or may not be written, means to whoever runs a party."""

from __future__ import annotations

import errno
import re
from typing import Final

from fdfed.errors import StorageFailed

_FULL: Final = "has no space left; free some"
_REASONS: Final = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "is over its quota; free some space, or have it raised",
    errno.EFBIG: "may not be that large on its file system; raise the limit (ulimit -f)",
    errno.EROFS: (
        "is on a file system that is mounted read-only; find out why (a disk that fails is often "
        "mounted so), and have it writable"
    ),
}
_IN_TEXT: Final = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust, safetensors among them, name the system's error."""


def storage_failure(error: BaseException) -> StorageFailed | None:
    """The failure that an operator can act on; None where `error` is not the disk's."""
    number, path = None, None
    if isinstance(error, OSError):
        number, path = error.errno, error.filename
    elif found := _IN_TEXT.search(str(error)):
        number = int(found[1])
    reason = None if number is None else _REASONS.get(number)
    if reason is None:
        return None
    return StorageFailed(
        f"{path or 'a file of the state folder'} {reason}, and start again. What was complete is "
        "kept, and the run goes on from there"
    )

"""One process for one state folder: two would overwrite each other's records."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fdfed.errors import InvalidInput


@contextmanager
def only_process(state: Path, *, who: str, remedy: str) -> Iterator[None]:
    """Holds the state folder's lock; the kernel drops it with the process, however that ends.

    Args:
        state: made if it is not there, for its owner alone.
        who: what would be there twice, such as `coordinator`.
        remedy: what to do about it.

    Raises:
        InvalidInput: if another process holds it.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        os.close(handle)
        raise InvalidInput(f"another {who} uses {state}; {remedy}") from err
    try:
        yield
    finally:
        os.close(handle)

"""One process for one state folder: two would overwrite each other's records."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fdfed.errors import InvalidInput
from fdfed.files.private_file import private_folder
from fdfed.files.state_format import StateFormat


@contextmanager
def only_process(state: Path, *, form: StateFormat, remedy: str) -> Iterator[None]:
    """Holds the state folder's lock; the kernel drops it with the process, however that ends. What
    is in the folder is brought up to date first.

    Args:
        state: made if it is not there, for its owner alone.
        form: whose state it is, and in which form this version keeps it.
        remedy: what to do about another process.

    Raises:
        InvalidInput: if another process holds it, or it is of a newer form or the other side's.
    """
    private_folder(state)
    handle = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        os.close(handle)
        raise InvalidInput(f"another {form.who} uses {state}; {remedy}") from err
    try:
        form.bring_up_to_date(state)
        yield
    finally:
        os.close(handle)

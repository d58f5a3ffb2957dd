"""Memory that is freed is kept for the next step, instead of being given back and asked for anew.

glibc returns what a training step has freed to the system, which hands it out page by page in the
next step, each page cleared first: of a step on a processor that was a sixth. What is kept here is
bounded, and a step needs it again anyway.
"""

from __future__ import annotations

import ctypes
from typing import Final

# From <malloc.h>.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_MAPPED_FROM: Final = 32 * 2**20
"""Larger pieces are mapped, and returned, one by one; glibc allows no more than this."""
KEPT_BYTES: Final = 512 * 2**20
"""Free memory that is kept at most, in each of glibc's arenas."""


def keep_freed_memory() -> bool:
    """From now on this process keeps freed memory; False where its C library is not glibc.

    For a process that trains, at its beginning. Numbers are not touched.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_THRESHOLD, _MAPPED_FROM), (_M_TRIM_THRESHOLD, KEPT_BYTES))
    return all(mallopt(setting, value) for setting, value in settings)

"""Random generators that depend on a key alone, so that a draw can be repeated anywhere."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def generator(*key: str | int) -> np.random.Generator:
    """A generator whose stream is a function of `key` alone.

    The key is hashed as JSON with SHA-256: `("a", 11)` and `("a1", 1)` differ, and so do `1` and
    `"1"`. Python's own `hash` is salted per process and would draw anew in each.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest)))

"""Tables of settings, laid one over the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Changes = Mapping[str, Any]
"""Fields of a run plan; nested tables as mappings."""


def merged(old: Changes, new: Changes) -> dict[str, Any]:
    """`old` with the entries of `new`; nested tables are merged, not replaced."""
    both = dict(old)
    for key, value in new.items():
        nested = isinstance(value, Mapping) and isinstance(both.get(key), Mapping)
        both[key] = merged(both[key], value) if nested else value
    return both

"""Packages whose names are loaded when they are first used.

What a process needs of a package may be light where the rest is not: a server process that never
sees a tensor must not load PyTorch for the sake of a constant, and starts in a fifth of the time.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def exports(package: str, modules: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names are in its modules.

    Args:
        package: its `__name__`.
        modules: the names, by the module that has them.
    """
    places = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{places[name]}"), name)
        # The next use finds it without coming here.
        setattr(sys.modules[package], name, value)
        return value

    return load

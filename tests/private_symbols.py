"""What another package's private symbols look like, for the tests that hold them to it."""

from __future__ import annotations

import importlib
import inspect


def parameters_of(reference: str) -> tuple[str, ...]:
    """The names of the arguments of `module:path.to.it`."""
    module, _, path = reference.partition(":")
    found: object = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return tuple(inspect.signature(found).parameters)  # type: ignore[arg-type]


def fields_of(message: type) -> set[str]:
    """The names of a protobuf message's fields."""
    return {field.name for field in message.DESCRIPTOR.fields}  # type: ignore[attr-defined]

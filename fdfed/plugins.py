"""What other installed packages offer, found by their entry points.

A package offers a network, a loss, a strategy or the layout of a data set under one of the groups
below (`docs/EXTENDING.md`). What was installed on a machine is all that a name can reach there: a
run plan, which comes from the coordinator, chooses among the names and brings no code. Nothing of a
package is imported before its name is used, and no package can take the place of a built-in name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Literal, TypeVar

from fdfed.errors import InvalidInput

Group = Literal["fdfed.networks", "fdfed.losses", "fdfed.strategies", "fdfed.datasets"]
Kind = TypeVar("Kind")

_SETTINGS: Final[dict[Group, str]] = {
    "fdfed.networks": "network",
    "fdfed.losses": "loss",
    "fdfed.strategies": "strategy",
    "fdfed.datasets": "layout",
}
"""The setting that names an entry of the group: of the run plan, and `layout` of a data folder."""


def installed(group: Group) -> tuple[str, ...]:
    """The names that installed packages offer, sorted; no code of theirs is run."""
    return tuple(sorted(entry_points(group=group).names))


def unknown(group: Group, name: str, *, built_in: Sequence[str]) -> str:
    """What to tell a person whose plan names what is neither built in nor installed here."""
    known = ", ".join(dict.fromkeys((*built_in, *installed(group))))
    where = "at this site" if group == "fdfed.datasets" else "on the coordinator and at every site"
    return (
        f"{_SETTINGS[group]} = {name} is not known here; use one of: {known}; or install the "
        f"package that offers it, {where}"
    )


def load(group: Group, name: str, kind: type[Kind], *, built_in: Sequence[str]) -> type[Kind]:
    """The class that an installed package offers under `name`, a subclass of `kind`.

    Args:
        built_in: names that need no package, for the error message.

    Raises:
        InvalidInput: if no package offers it, several do, it cannot be imported, or it is not
            such a class.
    """
    entry = _entry(group, name, built_in=built_in)
    loaded = _import(entry)
    if not (isinstance(loaded, type) and issubclass(loaded, kind)):
        raise InvalidInput(
            f"{name} of {_package(entry)} ({entry.value}) is no subclass of {kind.__name__}; see "
            "docs/EXTENDING.md for what it must be"
        )
    return loaded


def load_function(group: Group, name: str, *, built_in: Sequence[str]) -> Callable[..., Any]:
    """The function that an installed package offers under `name`.

    Raises:
        InvalidInput: as `load`, or if it cannot be called.
    """
    entry = _entry(group, name, built_in=built_in)
    loaded = _import(entry)
    if isinstance(loaded, type) or not callable(loaded):
        raise InvalidInput(
            f"{name} of {_package(entry)} ({entry.value}) is no function; see docs/EXTENDING.md "
            "for what it must be"
        )
    function: Callable[..., Any] = loaded
    return function


def _entry(group: Group, name: str, *, built_in: Sequence[str]) -> EntryPoint:
    found = {entry.value: entry for entry in entry_points(group=group) if entry.name == name}
    if not found:
        raise InvalidInput(unknown(group, name, built_in=built_in))
    if len(found) > 1:
        offers = ", ".join(sorted(map(_package, found.values())))
        raise InvalidInput(
            f"{_SETTINGS[group]} = {name} is offered by several packages: {offers}; uninstall all "
            "but one, for which of them would be used is chance"
        )
    return next(iter(found.values()))


def _import(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except (ImportError, AttributeError) as err:
        raise InvalidInput(
            f"{entry.name} of {_package(entry)} cannot be imported ({err}); install that package "
            "again, or correct its entry point"
        ) from err


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value

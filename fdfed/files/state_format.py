"""The form of a state folder: an older one is brought up to date, a newer one is refused.

`format.json` in the folder says whose it is, and in which form. It changes last: an upgrade that
was cut off in the middle is done again from the step that was not finished, so a step must be able
to meet a folder on which it has begun.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from fdfed import __version__
from fdfed.errors import InvalidInput
from fdfed.files import strict_json
from fdfed.files.atomic_file import replacing
from fdfed.files.private_file import line, write_private

log = logging.getLogger(__name__)

FILE: Final = "format.json"
_BEFORE: Final = 1
"""The form of a folder that does not name one: those of the time before the file."""

Upgrade = Callable[[Path], None]
"""Brings a folder from one form to the next."""


@dataclass(frozen=True, slots=True)
class StateFormat:
    """The form in which this version of fdfed keeps the state of one side."""

    who: Literal["agent", "coordinator"]
    number: int = 1
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)
    """By the form that each starts from; one for every form below `number`."""

    def bring_up_to_date(self, state: Path) -> None:
        """Has the folder, whose lock the caller holds, in this form when it returns.

        Raises:
            InvalidInput: if it is of a newer form, the other side's, or does not say which.
        """
        found = self.check(state)
        for number in range(found, self.number):
            log.warning("%s: bringing the state from format %d to %d", state, number, number + 1)
            self.upgrades[number](state)
            self._write(state, number + 1)
        if not (state / FILE).exists():
            self._write(state, self.number)

    def check(self, state: Path) -> int:
        """The form of the folder, which may be an older one; nothing is written.

        Raises:
            InvalidInput: as `bring_up_to_date`.
        """
        path = state / FILE
        try:
            document = strict_json.loads(path.read_bytes(), source=str(path))
        except FileNotFoundError:
            return _BEFORE
        except (OSError, InvalidInput) as err:
            raise InvalidInput(_damaged(path)) from err
        number = _number(path, document)
        if document.get("who") != self.who:
            raise InvalidInput(
                f"{state} is the state folder of {_article(document.get('who'))}, not of "
                f"{_article(self.who)}; give each a folder of its own"
            )
        if number > self.number:
            raise InvalidInput(
                f"{state} was written by fdfed {document.get('fdfed')} (format {number}); this is "
                f"fdfed {__version__}, which reads formats up to {self.number}. Install that "
                "version or a newer one, or put back the backup from before the upgrade: a state "
                "is never taken backwards"
            )
        return number

    def _write(self, state: Path, number: int) -> None:
        document = {"who": self.who, "format": number, "fdfed": __version__}
        with replacing(state / FILE) as part:
            write_private(part, line(json.dumps(document)))


AGENT: Final = StateFormat("agent")
COORDINATOR: Final = StateFormat("coordinator")


def _number(path: Path, document: Any) -> int:
    found = document.get("format") if isinstance(document, dict) else None
    if not isinstance(found, int) or isinstance(found, bool) or found < _BEFORE:
        raise InvalidInput(_damaged(path))
    return found


def _damaged(path: Path) -> str:
    return (
        f"{path} does not say in which format the state is kept; put it back from the backup of "
        "the whole folder"
    )


def _article(who: object) -> str:
    return {"agent": "an agent", "coordinator": "a coordinator"}.get(str(who), f"{who!s}"[:40])

"""Which files make up one audit log: those that were full, in order, then the one in use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fdfed.errors import InvalidInput

ACTIVE: Final = "audit.log"
_FULL: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{6})\.log")


@dataclass(frozen=True, slots=True)
class LogFiles:
    """The paths of a log, whose file in use is `active`."""

    active: Path

    @property
    def head(self) -> Path:
        """The file that says which line is the last."""
        return self.active.with_suffix(".head")

    @property
    def lock(self) -> Path:
        """The file that a writer holds locked."""
        return self.active.with_suffix(".lock")

    def full(self) -> list[Path]:
        """The files that were full, the oldest first."""
        stem = re.escape(self.active.stem)
        pattern = re.compile(rf"{stem}-(\d{{6}})\.log")
        siblings = self.active.parent.iterdir() if self.active.parent.is_dir() else ()
        return sorted(path for path in siblings if pattern.fullmatch(path.name))

    def next_full(self) -> Path:
        """The name under which the file in use is put away."""
        full = self.full()
        number = int(full[-1].stem[-6:]) + 1 if full else 1
        return self.active.with_name(f"{self.active.stem}-{number:06d}.log")

    def all(self) -> list[Path]:
        """Every file there is, in the order of the chain."""
        return [*self.full(), *([self.active] if self.active.exists() else [])]


def files_at(path: Path) -> tuple[LogFiles | None, list[Path]]:
    """The log that `path` means, and its files.

    Args:
        path: a folder with `audit.log`; a log in use, with whose full files it belongs together; or
            one full file, which is taken alone: then there is no log to which it is the end.

    Raises:
        InvalidInput: if there is none.
    """
    log = LogFiles(path / ACTIVE if path.is_dir() else path)
    if not path.is_dir() and _FULL.fullmatch(path.name):
        found: list[Path] = [path] if path.exists() else []
        log_or_none = None
    else:
        found, log_or_none = log.all(), log
    if not found:
        raise InvalidInput(
            f"{path} holds no audit log; give the agent's state folder, or the audit.log in it"
        )
    return log_or_none, found

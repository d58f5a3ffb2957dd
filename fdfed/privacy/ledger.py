"""The ledger of a site: everything that it ever released under differential privacy, on disk.

A release is entered, and has reached the disk, *before* it is made. A crash in between counts a
release that never left; none that left is ever missing. A file that is damaged, cut short or
altered is refused whole: what was spent is then unknown, so nothing more may be spent. One ledger
serves all runs of a site, because all of them are about the same patients.

What it cannot notice by itself: that the whole file was removed, or put back from an older copy. A
site with a record of a later round of the run notices both (`fdfed_client.private_training`); one
whose whole state folder was put back does not. The folder is the hospital's own.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from fdfed.errors import InvalidInput, PrivacyBudgetExceeded
from fdfed.files import strict_json
from fdfed.files.atomic_file import write_text
from fdfed.privacy.accounting import Release, epsilon_of

FORMAT: Final = 1

Kind = Literal["weights", "prototypes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One release, or several equal ones, and where it belongs."""

    run_id: str
    server_round: int
    attempt: int
    kind: Kind
    release: Release


@dataclass(frozen=True, slots=True)
class Budget:
    """What a site may spend in all."""

    epsilon: float
    delta: float


class Ledger:
    """The entries in one file, read anew each time, so that two processes cannot lose one.

    Args:
        path: the file; it is made by the first entry. `PATH.lock` beside it is held while it is
            read and written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> tuple[Entry, ...]:
        """All entries, oldest first; none if the file does not exist.

        Raises:
            PrivacyBudgetExceeded: if the file is not whole and unaltered.
        """
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as err:
            raise self._unusable(f"it cannot be read ({err.strerror})") from err
        return self._parsed(text)

    def spent(self, *, delta: float) -> float:
        """ε at `delta` of everything entered.

        Raises:
            PrivacyBudgetExceeded: if the file is not whole and unaltered.
        """
        return epsilon_of((entry.release for entry in self.entries()), delta=delta)

    def reserve(self, new: Sequence[Entry], budget: Budget) -> float:
        """Enters releases that are about to be made; ε spent with them. On return they are on disk.

        Raises:
            PrivacyBudgetExceeded: if they would exceed the budget, or the file is damaged; nothing
                is entered then, and the releases must not be made.
        """
        with self._locked():
            known = self.entries()
            releases = [entry.release for entry in (*known, *new)]
            after = epsilon_of(releases, delta=budget.delta)
            # Not `after > budget`: a NaN must be refused too.
            if not after <= budget.epsilon:
                before = epsilon_of((e.release for e in known), delta=budget.delta)
                raise PrivacyBudgetExceeded(
                    f"the privacy budget is spent: ε is {before:.4g} at δ = {budget.delta:.3g}, "
                    f"and what comes next would make it {after:.4g}, above the budget of "
                    f"{budget.epsilon:.4g}. Training stops here; its last complete round stands"
                )
            write_text(self._path, _document((*known, *new)))
            return after

    def _parsed(self, text: bytes) -> tuple[Entry, ...]:
        try:
            document = strict_json.loads(text, source="its content")
            if set(document) != {"format", "entries", "sha256"}:
                raise ValueError("it has other keys than a ledger")
            if document["format"] != FORMAT:
                raise ValueError(f"its format is {document['format']!r}, not {FORMAT}")
            if document["sha256"] != _digest(document["entries"]):
                raise ValueError("its content is not what its checksum says")
            return _ENTRIES.validate_python(document["entries"])
        except (ValueError, TypeError, InvalidInput, ValidationError) as err:
            raise self._unusable(str(err).splitlines()[0]) from err

    def _unusable(self, finding: str) -> PrivacyBudgetExceeded:
        return PrivacyBudgetExceeded(
            f"the privacy ledger {self._path} cannot be used: {finding}. What this site has spent "
            "is unknown, so it releases nothing more. Restore the file from a backup that is not "
            "older than the last round, or treat the budget as spent"
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


_ENTRIES: Final = TypeAdapter(tuple[Entry, ...], config={"extra": "forbid"})


def _document(entries: Sequence[Entry]) -> str:
    plain = [asdict(entry) for entry in entries]
    return json.dumps({"format": FORMAT, "entries": plain, "sha256": _digest(plain)}, indent=1)


def _digest(entries: Any) -> str:
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

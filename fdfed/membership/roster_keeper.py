"""The roster that a running party goes by: newer ones are taken up, older ones never again.

A party keeps the last roster that it used, whole, in its state folder. So a restart cannot bring an
old one back, a fork of the signing policies shows, and a crash between the writing of `roster.json`
and of `roster.sig` costs nothing.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from pydantic import ValidationError

from fdfed.config import Frozen
from fdfed.errors import CryptoError, FdfedError
from fdfed.files import atomic_file
from fdfed.files.private_file import write_private
from fdfed.membership.consortium import SigningPolicy
from fdfed.membership.roster import SignedRoster

log = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]


class _Used(Frozen):
    """The file of the last roster used: both texts, so that it verifies by itself."""

    roster: str
    signatures: str


class RosterKeeper:
    """Holds the roster of `path`, and follows its file. Safe to share between threads.

    Args:
        path: `roster.json`; `roster.sig` lies beside it.
        public_key: `consortium.pub`, the pinned policy.
        used: file in which the last roster used is kept.

    Raises:
        InvalidInput: if a file is missing or not of the agreed form.
        CryptoError: if the roster does not verify, or is older than, or a fork of, one used here.
    """

    def __init__(self, path: Path, *, public_key: Path, used: Path) -> None:
        self._path = path
        self._used = used
        self._pinned = SigningPolicy.load(public_key)
        self._lock = threading.Lock()
        self._stamp = _stamp(path)
        self._doubtful: _Stamp | None = None
        before = self._last_used()
        try:
            found = SignedRoster.load(path, public_key=public_key)
        except CryptoError as err:
            if before is None:
                raise
            # A crash between two writes leaves a pair that does not fit; the whole copy is as good.
            log.warning("%s; going by the roster used last, version %d", err, _version(before))
            found = before
        if before is not None:
            _check_follows(found, before)
        self._current = found
        self._keep(found)

    @property
    def current(self) -> SignedRoster:
        """The newest roster that has been verified."""
        return self._current

    def refresh(self) -> bool:
        """Looks at the file again; whether there is a newer roster now.

        A file that cannot be used is named in the log, and the current roster stays in force.
        """
        stamp = _stamp(self._path)
        with self._lock:
            if stamp == self._stamp:
                return False
            try:
                signatures = self._path.with_suffix(".sig").read_bytes()
                found = self._verified(self._path.read_bytes(), signatures, str(self._path))
            except (OSError, FdfedError) as err:
                # The two files are not replaced in one moment; what is still so next time is told.
                if stamp == self._doubtful:
                    self._stamp = stamp
                    log.warning("the roster on disk is not used: %s", err)
                self._doubtful = stamp
                return False
            self._stamp = stamp
            return self._take(found)

    def adopt(self, text: bytes, signatures: bytes, *, source: str) -> bool:
        """Takes a roster that somebody relayed, and writes it to the file; whether it was newer.

        Raises:
            InvalidInput: if the text is not of the agreed form.
            CryptoError: if it does not verify, or does not follow the current roster.
        """
        with self._lock:
            found = self._verified(text, signatures, source)
            if not self._take(found):
                return False
            _write(self._path.with_suffix(".sig"), signatures)
            _write(self._path, text)
            self._stamp = _stamp(self._path)
            return True

    def _verified(self, text: bytes, signatures: bytes, source: str) -> SignedRoster:
        found = SignedRoster.verify(text, signatures, pinned=self._pinned, source=source)
        _check_follows(found, self._current)
        return found

    def _take(self, found: SignedRoster) -> bool:
        if found.digest == self._current.digest:
            return False
        self._keep(found)
        self._current = found
        log.info("roster of version %d is in force", _version(found))
        return True

    def _keep(self, roster: SignedRoster) -> None:
        copy = _Used(roster=roster.text.decode(), signatures=roster.signatures.decode())
        with atomic_file.replacing(self._used) as part:
            write_private(part, copy.model_dump_json().encode())

    def _last_used(self) -> SignedRoster | None:
        try:
            copy = _Used.model_validate_json(self._used.read_bytes())
            return SignedRoster.verify(
                copy.roster.encode(),
                copy.signatures.encode(),
                pinned=self._pinned,
                source=str(self._used),
            )
        except FileNotFoundError:
            return None
        except (ValidationError, FdfedError) as err:
            raise CryptoError(
                f"{self._used} does not hold the roster that was used last; restore it from a "
                "backup, without it an old roster could come back. If this folder served another "
                "consortium before, give the new one a state folder of its own"
            ) from err


def _check_follows(roster: SignedRoster, before: SignedRoster) -> None:
    """Raises CryptoError if `roster` is older than `before`, or not of its lineage."""
    version, seen = _version(roster), _version(before)
    if version < seen:
        raise CryptoError(
            f"the roster is of version {version}, but version {seen} has been used here; an old "
            "roster may list sites that were removed. Fetch the newest from whoever signs it"
        )
    if version == seen and roster.digest != before.digest:
        raise CryptoError(
            f"this roster of version {version} is not the one of that version that has been used "
            "here; its signers made two. Ask them which one holds, and have them sign a newer one"
        )
    if before.lineage[-1] not in roster.lineage:
        raise CryptoError(
            f"the roster of version {version} is signed under a policy that does not follow from "
            f"the one in force here ({before.policy.summary}); signers who were replaced cannot "
            "sign any more. Find out who made it"
        )


def _version(roster: SignedRoster) -> int:
    return roster.roster.version


def _stamp(path: Path) -> _Stamp:
    """What changes when one of the two files is replaced; empty while one is missing."""
    try:
        found = [file.stat() for file in (path, path.with_suffix(".sig"))]
    except OSError:
        return ()
    return tuple((entry.st_mtime_ns, entry.st_size, entry.st_ino) for entry in found)


def _write(path: Path, content: bytes) -> None:
    with atomic_file.replacing(path) as part:
        part.write_bytes(content)

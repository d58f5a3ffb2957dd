"""Whether an audit log is as it was written: every edit, removal, reorder, repeat and cut is found.

What cannot be found from the files alone is that all of them, the head too, were put back to an
earlier day, or written anew by whoever has the signing key. Against that helps a hash noted
elsewhere: each verification prints the last one, and takes one back as `head`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fdfed.audit.files import LogFiles, files_at
from fdfed.audit.line import FIRST, Head, Line, hash_of, read_line
from fdfed.errors import InvalidInput

OPENING_KINDS: Final = ("opened", "continued")
"""Lines that name the key which signs them and those after them."""
TORN: Final = "torn"
"""The line after one that a crash cut off; it holds that one's hash, as its predecessor's."""
ROTATED: Final = "rotated"
"""The last line of a full file."""
_MOST_FINDINGS: Final = 20


@dataclass(slots=True)
class Verdict:
    """What was found."""

    findings: list[str] = field(default_factory=list)
    """One sentence each; none: nothing was altered."""
    notes: list[str] = field(default_factory=list)
    """What is no alteration, but worth knowing."""
    keys: list[str] = field(default_factory=list)
    """Public keys, in hexadecimal, that signed the lines."""
    last: Line | None = None
    cut: bytes = b""
    """What a crash left of a line at the very end."""
    lines: int = 0
    seen: set[str] = field(default_factory=set, repr=False)

    @property
    def sound(self) -> bool:
        """Whether nothing was altered."""
        return not self.findings

    @property
    def head(self) -> str:
        """The hash of the last line."""
        return FIRST if self.last is None else self.last.hash

    def find(self, text: str) -> None:
        """Notes a finding; only the first ones are kept, as one alteration can break many lines."""
        if len(self.findings) < _MOST_FINDINGS:
            self.findings.append(text)


def verify(
    path: Path,
    *,
    keys: Collection[str] | None = None,
    head: str | None = None,
    partial: bool = False,
) -> Verdict:
    """What was done to the log at `path` (`files_at` says which files that means).

    Args:
        keys: public keys that may have signed it; None takes those that the log names, which the
            reader must then compare.
        head: a hash noted earlier, which must be that of one of its lines.
        partial: earlier files were put into an archive, so that the first line need not be the
            first of all.

    Raises:
        InvalidInput: if there is no log.
    """
    log, files = files_at(path)
    verdict = verify_files(files, keys=keys, partial=partial or log is None)
    if log is not None:
        _check_end(verdict, log)
    elif verdict.last is None or verdict.last.values["kind"] != ROTATED or verdict.cut:
        verdict.find(f"{path.name} lacks its end: the last line of a full file is of kind rotated")
    if head is not None and head not in verdict.seen:
        verdict.find(
            f"no line has the noted hash {head[:16]}…: what came up to it was cut off or rewritten"
        )
    return verdict


def verify_files(
    files: list[Path], *, keys: Collection[str] | None = None, partial: bool
) -> Verdict:
    """As `verify`, of these files in this order, without a look at the head."""
    verdict = Verdict()
    reader = _Reader(verdict, keys, partial=partial)
    for path in files:
        content = path.read_bytes()
        *whole, rest = content.split(b"\n")
        reader.file(path, whole)
        if rest and path != files[-1]:
            verdict.find(f"{path.name} ends in the middle of a line")
        verdict.cut = rest
    return verdict


def verify_tail(log: LogFiles) -> Verdict:
    """The last two files of a log against its head: what a writer must know before it goes on."""
    files = log.all()
    verdict = verify_files(files[-2:], partial=len(files) > 2)
    _check_end(verdict, log)
    return verdict


class _Reader:
    """Goes through lines in their order; what it expects of the next one."""

    def __init__(self, verdict: Verdict, keys: Collection[str] | None, *, partial: bool) -> None:
        self._verdict = verdict
        self._keys = keys
        self._previous: str | None = None if partial else FIRST
        self._number: int | None = None if partial else 1

    def file(self, path: Path, lines: list[bytes]) -> None:
        for index, text in enumerate(lines):
            where = f"{path.name}, line {index + 1}"
            following = lines[index + 1] if index + 1 < len(lines) else b""
            if not _closes(following, text):
                self._line(where, text)
            self._previous = hash_of(text)
            self._verdict.seen.add(self._previous)

    def _line(self, where: str, text: bytes) -> None:
        verdict = self._verdict
        verdict.lines += 1
        try:
            line = read_line(text)
        except InvalidInput as err:
            verdict.find(f"{where} {err}: it was edited or put there")
            self._number = None
            return
        if self._previous is not None and line.previous != self._previous:
            verdict.find(
                f"{where} does not follow the line before it: one was edited, removed, moved or "
                "repeated there"
            )
        elif self._number is not None and line.number != self._number:
            verdict.find(f"{where} has the number {line.number}, not {self._number}")
        self._number = line.number + 1
        self._check_key(where, line)
        verdict.last = line

    def _check_key(self, where: str, line: Line) -> None:
        keys = self._verdict.keys
        named = line.values.get("key")
        if line.values["kind"] in OPENING_KINDS and isinstance(named, str) and named not in keys:
            if self._keys is not None and named not in self._keys:
                self._verdict.find(f"{where} is signed by the key {named[:16]}…, not a known one")
            keys.append(named)
        allowed = list(self._keys or ()) or keys
        if not any(line.is_signed_by(key) for key in reversed(allowed)):
            self._verdict.find(f"{where} is not signed by the key of the log: it was edited")


def _closes(text: bytes, torn: bytes) -> bool:
    """Whether `text` is the line that an agent wrote after it found `torn` cut off."""
    try:
        line = read_line(text)
    except InvalidInput:
        return False
    return line.values["kind"] == TORN and line.previous == hash_of(torn)


def _check_end(verdict: Verdict, log: LogFiles) -> None:
    """Compares the last line with the head."""
    last = verdict.last
    try:
        text = log.head.read_bytes()
    except OSError:
        # An agent that was killed over its very first line had not come to the head yet.
        if last is not None and last.number > 1:
            verdict.find(f"{log.head.name} is missing, so lines may be missing at the end too")
        return
    head: Head | None = None
    for key in reversed(verdict.keys):
        try:
            head = Head.from_text(text, key)
        except InvalidInput:
            continue
        break
    if head is None:
        verdict.find(f"{log.head.name} is not signed by the key of the log")
    elif last is None or last.number < head.number:
        there = 0 if last is None else last.number
        verdict.find(
            f"{head.number - there} line(s) are missing at the end: the signed head names "
            f"{head.number}, the last one that is here is {there}"
        )
    elif head.hash not in verdict.seen:
        verdict.find(f"{log.head.name} names another line {head.number} than the one that is here")
    if verdict.cut and verdict.sound:
        verdict.notes.append(
            "the last line was cut off by a crash; what it was about had not left yet. The agent "
            "closes it at its next start"
        )

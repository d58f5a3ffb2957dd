"""The lines of an audit log for another system, such as a hospital's SIEM."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from fdfed.audit.files import files_at
from fdfed.audit.line import read_line
from fdfed.errors import InvalidInput


def exported(path: Path, *, since: datetime | None = None) -> Iterator[str]:
    """The lines of the log at `path`, each a JSON object with its signature, in their order.

    Lines that cannot be read are left out: `verify` names them.

    Args:
        since: only lines of this moment or later; without a time zone, of UTC.

    Raises:
        InvalidInput: if there is no log.
    """
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    _, files = files_at(path)
    for file in files:
        for text in file.read_bytes().split(b"\n"):
            try:
                line = read_line(text)
                written = datetime.fromisoformat(str(line.values["time"]))
            except (InvalidInput, ValueError):
                continue
            if since is None or written >= since:
                yield text.decode("utf-8", errors="replace")

"""Whether a process works and can do its part, as whatever keeps it running asks.

Two questions, after Kubernetes' own: is it *live*, or would only a new start help; and is it
*ready*, or does it wait for something. Each is a few named checks, of which none trains, sends or
changes anything.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

Check = Callable[[], str]
"""Says in one line what is wrong; nothing while all is well. Without paths, names or values: the
port of the metrics may be open to more people than the log."""

SILENT_SECONDS: Final = 900.0
"""How long a loop may take for one turn. Beyond the longest wait for one object of a message, 600 s
(`fdfed_client.flower.node`, `fdfed_server.flower.grid`), in which it rightly stands still."""
_PROBE_BYTES: Final = 1 << 16


class Pulse:
    """When a loop last went round, and whether it is to end; beaten in one thread, read in
    others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._stopping = False

    def beat(self) -> None:
        """It goes round now.

        Raises:
            KeyboardInterrupt: after `stop`.
        """
        self._last = self._clock()
        if self._stopping:
            raise KeyboardInterrupt

    def stop(self) -> None:
        """The loop ends at its next beat; may be called from a signal handler."""
        self._stopping = True

    @property
    def silence(self) -> float:
        """Seconds since the last beat, or since the pulse was made."""
        return self._clock() - self._last

    def check(self) -> str:
        """For the liveness of whose loop this is."""
        silent = self.silence
        return f"has not gone round for {silent:.0f} s" if silent > SILENT_SECONDS else ""


@dataclass(frozen=True, slots=True)
class Health:
    """The checks of one process, by name; ready takes what live takes, and more."""

    live: Mapping[str, Check] = field(default_factory=dict)
    ready: Mapping[str, Check] = field(default_factory=dict)

    def answer(self, path: str) -> tuple[int, bytes] | None:
        """HTTP status and JSON for `/healthz` or `/readyz`; None for any other path."""
        if path == "/healthz":
            return _answer(self.live.items())
        if path == "/readyz":
            return _answer((*self.live.items(), *self.ready.items()))
        return None


def state_is_writable(state: Path) -> str:
    """Check: whether a file can be written where everything is kept that a restart needs."""
    try:
        with tempfile.TemporaryFile(dir=state) as file:
            file.write(bytes(_PROBE_BYTES))
    except OSError as err:
        return f"cannot be written ({err.strerror})"
    return ""


def not_expired(ends: Mapping[str, datetime], *, now: datetime | None = None) -> str:
    """Check: whether every certificate of `ends` still holds.

    Args:
        ends: until when each is valid, by what it is.
    """
    moment = now or datetime.now(UTC)
    expired = [f"{what} expired on {end:%Y-%m-%d}" for what, end in ends.items() if end < moment]
    return "; ".join(expired)


def _answer(checks: Iterable[tuple[str, Check]]) -> tuple[int, bytes]:
    found = {name: _asked(check) for name, check in checks}
    well = not any(found.values())
    document: dict[str, Any] = {
        "status": "ok" if well else "failing",
        "checks": {name: trouble or "ok" for name, trouble in found.items()},
    }
    return 200 if well else 503, json.dumps(document).encode() + b"\n"


def _asked(check: Check) -> str:
    try:
        return check()
    # A check that fails has found something, whatever it is; its text may hold a path.
    except Exception as err:
        return f"cannot be checked ({type(err).__name__})"

"""Who may look at a console, and who may act on it: two tokens in the state folder."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, get_args

Role = Literal["viewer", "operator"]
"""A viewer looks; an operator may also pause, resume and stop."""

SESSION_SECONDS: Final = 12 * 3600
_MAX_SESSIONS: Final = 64


class Access:
    """Tokens, made once and kept in files that their owner alone reads, and the sessions of those
    who showed one.

    Sessions are in memory: a restart ends them all.

    Args:
        folder: gains `operator.token` and `viewer.token`, mode 0600.
        clock: seconds.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: dict[str, tuple[Role, float]] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.token_files: dict[Role, Path] = {
            role: folder / f"{role}.token" for role in get_args(Role)
        }
        self._tokens = {role: _token(path) for role, path in self.token_files.items()}
        # Browsers keep one jar for all ports of a host: two consoles there need two names.
        digest = hashlib.sha256(self._tokens["viewer"]).hexdigest()
        self.cookie = f"fdfed_session_{digest[:12]}"

    def login(self, token: str) -> str | None:
        """A new session for the holder of a token; None if it is none of ours."""
        shown = token.strip().encode()
        role: Role | None = None
        # Every token is compared, in constant time each: the time tells nothing.
        for candidate, secret in self._tokens.items():
            if hmac.compare_digest(shown, secret):
                role = candidate
        if role is None:
            return None
        self._forget_old()
        session = secrets.token_urlsafe(32)
        self._sessions[session] = (role, self._clock() + SESSION_SECONDS)
        return session

    def role_of(self, session: str | None) -> Role | None:
        """What the holder of the session may do; None if it is unknown or over."""
        role, until = self._sessions.get(session or "", (None, 0.0))
        return role if self._clock() < until else None

    def logout(self, session: str | None) -> None:
        """The session is over."""
        self._sessions.pop(session or "", None)

    def _forget_old(self) -> None:
        now = self._clock()
        alive = {key: value for key, value in self._sessions.items() if now < value[1]}
        # The oldest go first, so that the memory stays bounded whoever logs in how often.
        kept = sorted(alive, key=lambda key: alive[key][1])[-(_MAX_SESSIONS - 1) :]
        self._sessions = {key: alive[key] for key in kept}


def _token(path: Path) -> bytes:
    """The token in the file, which is made if there is none."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes().strip()
    token = secrets.token_urlsafe(32).encode()
    with os.fdopen(handle, "wb") as file:
        file.write(token + b"\n")
    return token

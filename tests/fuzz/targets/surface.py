"""The head of an HTTP request at the SuperLink's two doors."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fdfed.membership.enrolment import INVITATION_HEADER
from fdfed_server.enrolment_desk import EnrolmentDesk
from fdfed_server.flower.surface import (
    MAX_BODY_BYTES,
    PUBLIC_PATHS,
    ControlSurface,
    PublicSurface,
    control_token,
)
from tests.fuzz.target import Target, scratch

SECRET = b"s" * 32


def doors(data: bytes) -> None:
    """Method, path and headers, a line each. What comes through a door has been admitted."""
    method, path, *lines = data.decode("latin-1").split("\n") if b"\n" in data else ("GET", "/")
    headers = [tuple(line.encode("latin-1").split(b":", 1)) for line in lines if ":" in line]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    if _passes(PublicSurface, scope):
        assert path in PUBLIC_PATHS
        declared = dict(headers).get(b"content-length", b"0")
        assert method != "POST" or int(declared) <= MAX_BODY_BYTES
    if _passes(lambda app: ControlSurface(app, SECRET), scope):
        shown = dict(headers).get(b"x-fdfed-control", b"")
        assert path == "/health" or shown == control_token(SECRET).encode()


def _passes(door: Any, scope: dict[str, Any]) -> bool:
    passed: list[bool] = []

    async def app(*_: object) -> None:
        passed.append(True)

    async def send(event: dict[str, Any]) -> None:
        assert event["type"].startswith("http.response")

    # Neither door waits for anything, so the coroutine runs to its end without a loop.
    call = door(app)(scope, None, send)
    try:
        call.send(None)
    except StopIteration:
        return bool(passed)
    raise AssertionError("a door waited")


RELAY_KEY = b"k" * 64
"""What the site `tnbc` shows: it has been invited."""


def desk(data: bytes) -> None:
    """A request at the enrolment desk: method, path and relay key, a line each, then the body."""
    head, _, body = data.partition(b"\n\n")
    method, path, shown, *_ = (*head.split(b"\n"), b"", b"", b"")
    scope = {
        "type": "http",
        "method": method.decode("latin-1"),
        "path": path.decode("latin-1"),
        "headers": [(INVITATION_HEADER.encode(), shown)],
    }
    with scratch() as folder:
        invited = {"tnbc": hashlib.sha256(RELAY_KEY).hexdigest()}
        (folder / "invited.json").write_text(json.dumps(invited))
        (folder / "requests").mkdir()
        app = EnrolmentDesk(
            invited=folder / "invited.json",
            requests=folder / "requests",
            answers=folder / "answers",
        )
        status = _status(app, scope, body)
        kept = [path.name for path in (folder / "requests").iterdir()]
    assert kept == (["tnbc.json"] if status == 202 else [])
    assert status == 404 or shown == RELAY_KEY


def _status(app: Any, scope: dict[str, Any], body: bytes) -> int:
    found: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(event: dict[str, Any]) -> None:
        found.append(int(event.get("status", 0)))

    call = app(scope, receive, send)
    try:
        call.send(None)
    except StopIteration:
        return found[0]
    raise AssertionError("the desk waited")


TARGETS = (
    Target("doors", doors, (), ("server/fdfed_server/flower/surface.py",)),
    Target("enrolment-desk", desk, (), ("server/fdfed_server/enrolment_desk.py",)),
)

"""The head of an HTTP request at the SuperLink's two doors."""

from __future__ import annotations

from typing import Any

from fdfed_server.flower.surface import (
    MAX_BODY_BYTES,
    PUBLIC_PATHS,
    ControlSurface,
    PublicSurface,
    control_token,
)
from tests.fuzz.target import Target

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


TARGETS = (Target("doors", doors, (), ("server/fdfed_server/flower/surface.py",)),)

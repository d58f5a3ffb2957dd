"""What each of the SuperLink's two ports answers to.

Flower serves everything on one port, and its account check lets anyone in: whoever reaches that
port may start runs, register nodes and take over the coordinator's task. So one application is
served behind two doors. The public one opens the few calls that a site's agent makes, all of which
Flower checks against the registered node keys. The control one is on loopback and opens everything
to callers that hold the coordinator's secret, since other users of the machine reach it too.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as ASGIMessage

from fdfed.membership.enrolment import DESK_PATH
from fdfed.wire import PROTOCOL_HEADER

HEALTH_PATH: Final = "/health"
PUBLIC_PATHS: Final = frozenset(
    {HEALTH_PATH}
    | {
        f"/v1/fleet/{call}"
        for call in (
            "activate-node",
            "deactivate-node",
            "send-node-heartbeat",
            "pull-parcel",
            "push-parcel",
            "pull-object",
            "push-object",
            "confirm-message-received",
        )
    }
)
"""A site needs no more. Left out of Flower's fleet calls: registering (the roster decides), and
fetching run and app bundle (an agent runs only what is installed). The two of parcels are ours, and
stand for Flower's two of messages (`holding.py`)."""

MAX_BODY_BYTES: Final = 64 * 2**20
"""Largest request on the public port. Flower cuts arrays into objects of 5 MiB, and a parcel has at
most 8 MiB of them, so an honest one is far smaller; bodies are read into memory before the
signature is checked."""

_MAX_DIGITS: Final = 20

CONTROL_HEADER: Final = "x-fdfed-control"


def control_token(secret: bytes) -> str:
    """What a caller of the control port shows: derived from the secret, which never travels."""
    return hmac.new(secret, b"fdfed control surface v1", hashlib.sha256).hexdigest()


class PublicSurface:
    """Lets through `PUBLIC_PATHS` with a body of declared and limited size; the rest is 404.

    Args:
        desk: answers for the paths of enrolment, without any part of Flower.
        protocol: what /health says of the formats that are spoken, so that a hospital can tell a
            version that does not fit. Not the release: who scans for a fault learns nothing.
    """

    def __init__(self, app: ASGIApp, *, desk: ASGIApp | None = None, protocol: str = "") -> None:
        self._app = app
        self._desk = desk
        self._header = (PROTOCOL_HEADER.encode(), protocol.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._desk is not None and is_for_the_desk(scope):
            if scope["method"] == "PUT" and (status := _body_fault(scope)):
                await _refuse(scope, send, status)
            else:
                await self._desk(scope, receive, send)
        elif scope["type"] != "http" or scope["path"] not in PUBLIC_PATHS:
            await _refuse(scope, send, 404)
        elif scope["method"] == "POST" and (status := _body_fault(scope)):
            await _refuse(scope, send, status)
        elif scope["path"] == HEALTH_PATH:
            await self._app(scope, receive, self._saying_protocol(send))
        else:
            await self._app(scope, receive, send)

    def _saying_protocol(self, send: Send) -> Send:
        async def say(message: ASGIMessage) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), self._header]
                message = {**message, "headers": headers}
            await send(message)

        return say


def is_for_the_desk(scope: Scope) -> bool:
    """Whether a request is about enrolment."""
    return scope["type"] == "http" and str(scope["path"]).startswith(DESK_PATH)


class ControlSurface:
    """Lets through callers that show the control token, and health checks."""

    def __init__(self, app: ASGIApp, secret: bytes) -> None:
        self._app = app
        self._token = control_token(secret).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and self._admits(scope)):
            await self._app(scope, receive, send)
        else:
            await _refuse(scope, send, 403)

    def _admits(self, scope: Scope) -> bool:
        shown = dict(scope["headers"]).get(CONTROL_HEADER.encode(), b"")
        return scope["path"] == HEALTH_PATH or hmac.compare_digest(shown, self._token)


def _body_fault(scope: Scope) -> int:
    """0, or the status that refuses this body before a byte of it is read."""
    headers = dict(scope["headers"])
    declared = headers.get(b"content-length", b"")
    # A chunked body ends where it likes, whatever length is declared beside it.
    if not declared.isdigit() or b"transfer-encoding" in headers:
        return 411
    # Python converts no number of thousands of digits.
    return 413 if len(declared) > _MAX_DIGITS or int(declared) > MAX_BODY_BYTES else 0


async def _refuse(scope: Scope, send: Send, status: int) -> None:
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})

"""The frame of a console: login, the page, its data, and the stream that says when it changed.

Nothing here comes from elsewhere: a content security policy forbids the page every request but to
its own server, and every inline script and style.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable
from urllib.parse import parse_qs

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.middleware.trustedhost import TrustedHostMiddleware

from fdfed.console.access import SESSION_SECONDS, Access, Role

log = logging.getLogger(__name__)

_STATIC: Final = Path(__file__).parent / "static"
_MAX_FORM: Final = 4096
_LOOK_SECONDS: Final = 0.25
_KEEPALIVE_LOOKS: Final = 40
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@runtime_checkable
class Feed(Protocol):
    """What a page shows."""

    @property
    def version(self) -> int:
        """Grows with every change."""
        ...

    def snapshot(self) -> Mapping[str, Any]:
        """Everything that the page shows, as JSON can hold it."""
        ...


def console_app(
    feed: Feed,
    *,
    access: Access,
    hosts: Collection[str],
    templates: str,
    context: Mapping[str, Any],
    static: Path,
) -> FastAPI:
    """The console's web application; the caller adds its actions.

    Args:
        hosts: names under which a browser may ask for it; others are refused, which keeps a page
            elsewhere from reaching a console on loopback under a name of its own.
        templates: the package with `console.html.j2`.
        context: what its template is given beside `role`.
        static: a folder of the console's own scripts, served under `/own`.

    Returns:
        The application; once its `state.closing` is set, open streams end, as whoever shuts it
        down wishes.
    """
    # Without the pages that describe the interface: they would load scripts from elsewhere.
    app = FastAPI(title="fdfed console", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    app.middleware("http")(_with_headers)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.mount("/own", StaticFiles(directory=static), name="own")
    shared, own = _environment("fdfed.console"), _environment(templates)
    app.state.closing = closing = threading.Event()

    @app.get("/", response_class=HTMLResponse)
    def page(request: Request) -> Response:
        role = _role(access, request)
        if role is None:
            return RedirectResponse("/login", status_code=303)
        return HTMLResponse(own.get_template("console.html.j2").render(role=role, **context))

    @app.get("/login", response_class=HTMLResponse)
    def login_page() -> str:
        return shared.get_template("login.html.j2").render(failed=False, files=access.token_files)

    @app.post("/login", response_class=HTMLResponse)
    async def login(request: Request) -> Response:
        session = access.login(await _form_value(request, "token"))
        if session is None:
            log.warning("console: a login with a token that is none of ours")
            text = shared.get_template("login.html.j2").render(
                failed=True, files=access.token_files
            )
            return HTMLResponse(text, status_code=403)
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(
            access.cookie, session, max_age=SESSION_SECONDS, httponly=True, samesite="strict"
        )
        return answer

    @app.post("/logout")
    def logout(request: Request) -> Response:
        access.logout(request.cookies.get(access.cookie))
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(access.cookie)
        return answer

    @app.get("/api/state")
    def state(request: Request) -> JSONResponse:
        require(access, request, "viewer")
        return JSONResponse(dict(feed.snapshot()))

    @app.get("/api/events")
    def events(request: Request) -> StreamingResponse:
        require(access, request, "viewer")
        return StreamingResponse(_changes(feed, request, closing), media_type="text/event-stream")

    return app


def require(access: Access, request: Request, role: Role) -> None:
    """Raises 401 without a session, 403 where its role may not do what `role` may.

    For anything that acts, the request must also bear the header that only our own script sets: a
    form on another page cannot.
    """
    found = _role(access, request)
    if found is None:
        raise HTTPException(401, "log in first")
    if role == "operator" and found != "operator":
        raise HTTPException(403, "this needs the operator's token; you are logged in as a viewer")
    if request.method != "GET" and request.headers.get("x-fdfed-console") != "1":
        raise HTTPException(403, "not asked by the console's own page")


def _role(access: Access, request: Request) -> Role | None:
    return access.role_of(request.cookies.get(access.cookie))


async def _changes(feed: Feed, request: Request, closing: threading.Event) -> AsyncIterator[str]:
    """One event as a page connects and one at each change, with a comment now and then so that
    a connection that is gone is noticed."""
    seen, looks = -1, 0
    while not closing.is_set() and not await request.is_disconnected():
        version = feed.version
        if version != seen:
            seen = version
            yield f"event: change\ndata: {json.dumps({'version': version})}\n\n"
        elif looks % _KEEPALIVE_LOOKS == 0:
            yield ": here\n\n"
        looks += 1
        await asyncio.sleep(_LOOK_SECONDS)


async def _with_headers(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await call_next(request)
    for name, value in _HEADERS.items():
        response.headers[name] = value
    return response


async def _form_value(request: Request, name: str) -> str:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM:
            raise HTTPException(413, "the form is too large")
    return parse_qs(body.decode("utf-8", errors="replace")).get(name, [""])[0]


def _environment(package: str) -> Environment:
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

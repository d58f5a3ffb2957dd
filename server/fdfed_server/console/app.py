"""The coordinator's web application: the shared frame, and three actions for operators."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request, Response

from fdfed.console import Access, console_app, require
from fdfed_server.console.board import Board
from fdfed_server.run_control import RunControl

log = logging.getLogger(__name__)

_STATIC: Final = Path(__file__).parent / "static"


def coordinator_console(
    board: Board,
    *,
    access: Access,
    control: RunControl,
    hosts: Collection[str],
    note: Callable[[str], None],
) -> FastAPI:
    """The application.

    Args:
        hosts: names under which a browser may ask for it.
        note: told what an operator asks for, before it is done; if it raises, nothing is done.
    """
    app = console_app(
        board,
        access=access,
        hosts=hosts,
        templates="fdfed_server.console",
        context={},
        static=_STATIC,
    )

    def act(request: Request, word: str, action: Callable[[], None]) -> Response:
        require(access, request, "operator")
        log.warning("console: an operator asked to %s the run", word)
        note(word)
        action()
        return Response(status_code=204)

    @app.post("/api/pause")
    def pause(request: Request) -> Response:
        return act(request, "pause", control.pause)

    @app.post("/api/resume")
    def resume(request: Request) -> Response:
        return act(request, "resume", control.resume)

    @app.post("/api/stop")
    def stop(request: Request) -> Response:
        return act(request, "stop", control.stop)

    return app

"""Serves a console in a thread of its own, on loopback unless its configuration says otherwise."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

log = logging.getLogger(__name__)


@contextmanager
def serving(app: FastAPI, *, address: str, port: int, setting: str) -> Iterator[None]:
    """Serves `app` at `http://address:port/` for the time of the context.

    A port that is taken is a warning: nobody's training stops because nobody can watch it.

    Args:
        port: 0 serves nothing.
        setting: how the user calls the port, for the warning.
    """
    if port == 0:
        yield
        return
    try:
        listener = socket.create_server((address, port))
    except OSError as err:
        log.warning(
            "no console: %s port %d cannot be bound (%s); set %s to a free port",
            address,
            port,
            err.strerror,
            setting,
        )
        yield
        return
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            access_log=False,
            server_header=False,
            log_config=None,
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="console", daemon=True
    )
    thread.start()
    log.info("console: http://%s:%d/", address, port)
    try:
        yield
    finally:
        # Else the open streams of pages that look on would hold it up, and be cut.
        app.state.closing.set()
        server.should_exit = True
        thread.join()
        listener.close()

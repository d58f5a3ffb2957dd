"""Serves a process's Prometheus metrics and its health, on loopback unless told otherwise.

What is measured is defined on each side: `fdfed_server.metrics`, `fdfed_client.metrics`. All names
are in `docs/METRICS.md`.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)
from prometheus_client.exposition import ThreadingWSGIServer

from fdfed.process.health import Health

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)


def process_registry() -> CollectorRegistry:
    """A registry with the memory, CPU time and open files of this process, and nothing else yet.

    Not the library's global one: a simulation holds a coordinator and many sites in one process,
    and a second run in it starts from zero.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


@contextmanager
def serving(
    registry: CollectorRegistry, health: Health, *, address: str, port: int, setting: str
) -> Iterator[None]:
    """Serves `/metrics`, `/healthz` and `/readyz` at `http://address:port` for the time of the
    context.

    A port that is taken is a warning: nobody's training stops because nobody can watch it.

    Args:
        port: 0 serves nothing.
        setting: how the user calls the port, for the warning.
    """
    if port == 0:
        yield
        return
    kind = _Server6 if ":" in address else ThreadingWSGIServer
    try:
        server = make_server(address, port, pages(registry, health), kind, _Quiet)
    except OSError as err:
        log.warning(
            "metrics and health are not served: %s port %d cannot be bound (%s); set %s to a free "
            "port",
            address,
            port,
            err.strerror,
            setting,
        )
        yield
        return
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    log.info("metrics: http://%s:%d/metrics", address, port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def pages(registry: CollectorRegistry, health: Health) -> WSGIApplication:
    """What is served: the registry's metrics, and what `health` answers."""
    metrics = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            found: Iterable[bytes] = metrics(environ, start_response)
            return found
        status, body = health.answer(path) or (404, b"")
        headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [body]

    return answer


class _Server6(ThreadingWSGIServer):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    """Asked every few seconds for months: not a line each."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def table(registry: CollectorRegistry) -> str:
    """The registry's metrics as the rows of a Markdown table, for `docs/METRICS.md`."""
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for family in registry.collect():
        labels = sorted({name for sample in family.samples for name in sample.labels} - {"le"})
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        rows.append(
            f"| `{family.name}{suffix}` | {family.type} | {', '.join(labels) or '–'} | "
            f"{family.documentation} |"
        )
    return "\n".join(rows)

"""Serves a process's Prometheus metrics, on loopback unless its configuration says otherwise.

What is measured is defined on each side: `fdfed_server.metrics`, `fdfed_client.metrics`. All names
are in `docs/METRICS.md`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

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
    registry: CollectorRegistry, *, address: str, port: int, setting: str
) -> Iterator[None]:
    """Serves `registry` at `http://address:port/metrics` for the time of the context.

    A port that is taken is a warning: nobody's training stops because nobody can watch it.

    Args:
        port: 0 serves nothing.
        setting: how the user calls the port, for the warning.
    """
    if port == 0:
        yield
        return
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as err:
        log.warning(
            "metrics are not served: %s port %d cannot be bound (%s); set %s to a free port",
            address,
            port,
            err.strerror,
            setting,
        )
        yield
        return
    log.info("metrics: http://%s:%d/metrics", address, port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


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

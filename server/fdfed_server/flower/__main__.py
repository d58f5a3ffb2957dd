"""The SuperLink's own process: `python -m fdfed_server.flower '<orders as JSON>'`.

It is started by `SuperLink`, which hands over two listening sockets. Flower's command for this
serves everything on one port, so the application is built here from Flower's parts instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

import uvicorn
import uvloop
from flwr.common.constant import (
    CONTROL_API_DEFAULT_SERVER_ADDRESS,
    ISOLATION_MODE_PROCESS,
    TRANSPORT_TYPE_GRPC_RERE,
)
from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
from flwr.superlink.main import create_app
from flwr.superlink.routers.control.middlewares import (
    ControlAuthenticationMiddleware,
    ControlEventLogMiddleware,
    ControlLicenseMiddleware,
    ControlSensitiveResponseMiddleware,
)
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from fdfed_server.enrolment_desk import EnrolmentDesk
from fdfed_server.flower.deliveries import Deliveries
from fdfed_server.flower.holding import Holding
from fdfed_server.flower.orders import SuperLinkOrders
from fdfed_server.flower.parcels import Parcels
from fdfed_server.flower.surface import ControlSurface, PublicSurface

DATABASE: Final = "superlink.db"
_PAGE_BYTES: Final = 32 * 1024
"""SQLite's usual 4 KiB make an object of 5 MiB 1,280 pages, more than its log may have before all
of it is copied into the file and synchronised: within the very transaction, nine times as long."""
_LOG_BYTES: Final = 5 * 2**20
_LOG_FILES: Final = 5
_IDLE: Final[tuple[object, ...]] = (
    ControlEventLogMiddleware,
    ControlLicenseMiddleware,
    FleetEventLogMiddleware,
    RuntimeTracingMiddleware,
)
"""Of Flower's layers around every request, those that only pass it on when no plug-in and no
tracing is set up, as here. Each costs as much as a look into the database, and a round is a hundred
requests."""
_OF_CONTROL: Final[tuple[object, ...]] = (
    ControlSensitiveResponseMiddleware,
    ControlAuthenticationMiddleware,
)
"""Of Flower's layers, those that only pass on what is not for the control API, by its path."""
_CONTROL: Final = "/v1/control/"


class _ForControl:
    """A layer of the control API, which no other request goes through."""

    def __init__(self, app: ASGIApp, layer: Callable[[ASGIApp], ASGIApp]) -> None:
        self._app = app
        self._layered = layer(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_control = scope["type"] == "http" and scope["path"].startswith(_CONTROL)
        await (self._layered if is_control else self._app)(scope, receive, send)


def main(argument: str) -> None:
    """Serves until told to stop, or until the process that started it is gone."""
    orders = SuperLinkOrders.model_validate_json(argument)
    os.umask(0o077)
    _log_to(orders.state / "superlink.log")
    _follow(orders.parent)
    uvloop.run(_serve(orders))


def _configuration(orders: SuperLinkOrders, secret: bytes) -> SuperLinkLifespanConfig:
    ca, certificate, key = (path.read_bytes() for path in orders.tls_files)
    return SuperLinkLifespanConfig(
        # Node keys are checked, and app tasks are given only to who holds the secret.
        enable_supernode_auth=True,
        isolation=ISOLATION_MODE_PROCESS,
        superexec_auth_secret=secret,
        runtime_dependency_install=False,
        insecure=False,
        certificates=(ca, certificate, key),
        ssl_ca_certfile=str(orders.ca),
        ssl_certfile=str(orders.certificate),
        ssl_keyfile=str(orders.key),
        database=str(_with_large_pages(orders.state / DATABASE)),
        authn_plugin=load_control_authn_plugin(),
        # Without meaning here: the ports are opened below, and no gRPC API is started.
        host="127.0.0.1",
        port=0,
        control_address=CONTROL_API_DEFAULT_SERVER_ADDRESS,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        health_server_address=None,
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        simulation=False,
    )


def _with_large_pages(database: Path) -> Path:
    """A new database gets pages made for large objects; one that is there stays as it is."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
            # Writes the first page, which says the size to those who open it from now on.
            connection.execute("VACUUM")
    return database


class _SecondServer(uvicorn.Server):
    """A server beside another one in one event loop, which already handles the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(orders: SuperLinkOrders) -> None:
    secret = orders.secret.read_bytes()
    flower = create_app(_configuration(orders, secret), SuperLinkLifespan)
    flower.user_middleware = [
        Middleware(_ForControl, layer=m.cls) if m.cls in _OF_CONTROL else m
        for m in flower.user_middleware
        if m.cls not in _IDLE
    ]
    deliveries = Deliveries(orders.state / DATABASE)
    app = Holding(
        flower,
        deliveries=deliveries,
        parcels=Parcels(flower.state.linkstate_factory.state, deliveries),
    )
    desk = EnrolmentDesk(invited=orders.invited, requests=orders.requests, answers=orders.answers)
    tls = {"ssl_certfile": orders.certificate, "ssl_keyfile": orders.key}
    quiet = {"access_log": False, "log_config": None, "server_header": False}
    public = _SecondServer(
        uvicorn.Config(
            PublicSurface(app, desk=desk, protocol=orders.protocol),
            lifespan="off",
            **tls,  # type: ignore[arg-type]
            **quiet,  # type: ignore[arg-type]
        )
    )
    control = uvicorn.Server(
        uvicorn.Config(ControlSurface(app, secret), lifespan="on", **tls, **quiet)  # type: ignore[arg-type]
    )
    tasks = [asyncio.create_task(public.serve(sockets=[socket.socket(fileno=orders.fleet_socket)]))]
    # The public door first: once the control door answers, both are open.
    while not public.started and not tasks[0].done():
        await asyncio.sleep(0.01)
    tasks.append(
        asyncio.create_task(control.serve(sockets=[socket.socket(fileno=orders.control_socket)]))
    )
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    public.should_exit = control.should_exit = True
    await asyncio.gather(*tasks)


def _log_to(path: Path) -> None:
    """Sends what Flower and uvicorn log into a rotated file, and nothing to the console."""
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S%z")
    )
    for name in ("flwr", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)


def _follow(parent: int) -> None:
    """Ends this process within a second of its parent's death, however that died.

    Linux can send a signal instead (PR_SET_PDEATHSIG), but sends it when the *thread* that started
    us ends, not the process; and other systems cannot. The database is in write-ahead mode, so that
    leaving without goodbye loses nothing that was answered.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(0)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1])

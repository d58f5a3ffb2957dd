"""Who watches a coordinator: the status file, its Prometheus metrics, and its console."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from fdfed import console
from fdfed.process.health import Health, Pulse, state_is_writable
from fdfed.process.metrics import process_registry, serving
from fdfed.process.watchdog import watchdog
from fdfed_server.config import ServerConfig
from fdfed_server.console import Board, coordinator_console
from fdfed_server.exchange_service import ExchangeService
from fdfed_server.flower import SuperLink
from fdfed_server.hub import ExchangeHub
from fdfed_server.membership import Membership
from fdfed_server.metrics import HubCollector, RosterCollector, RunMetrics
from fdfed_server.observer import Observer, Several
from fdfed_server.run_control import RunControl
from fdfed_server.run_state import RunState
from fdfed_server.status import StatusWriter

_TABLE: Final = "in [server]"


@dataclass(frozen=True, slots=True)
class Watchers:
    """What the round loop tells, and what an operator tells it."""

    observer: Observer
    control: RunControl


@contextmanager
def watched(
    server: ServerConfig,
    state: RunState,
    *,
    hub: ExchangeHub,
    service: ExchangeService,
    superlink: SuperLink,
    membership: Membership,
    pulse: Pulse,
    note: Callable[[str], None],
) -> Iterator[Watchers]:
    """Serves metrics, health and console, and keeps the status file, for the time of the context.

    Args:
        pulse: the round loop's.
        note: told what an operator asks for in the console.
    """
    plan, registry = state.plan, process_registry()
    registry.register(
        HubCollector(hub.snapshot, sites=plan.sites, online=lambda: service.connected)
    )
    registry.register(
        RosterCollector(
            lambda: membership.roster, certificate_ends=lambda: membership.certificate_ends
        )
    )
    metrics = RunMetrics(registry)
    control = RunControl(lambda: os.kill(os.getpid(), signal.SIGINT), pulse=pulse)
    board = Board(
        plan,
        run_id=state.run_id,
        history=state.history,
        hub=hub.snapshot,
        online=lambda: service.connected,
        roster_version=lambda: membership.roster.version,
        certificate_ends=lambda: membership.certificate_ends,
        paused=lambda: control.paused,
    )
    app = coordinator_console(
        board,
        access=console.Access(server.state / "console"),
        control=control,
        hosts=server.console_hosts,
        note=note,
    )
    health = Health(
        live={"round loop": pulse.check},
        ready={
            "fleet port": superlink.check,
            "exchange port": service.check,
            "roster": membership.check,
            "certificates": membership.check_own_certificates,
            "state": partial(state_is_writable, server.state),
        },
    )
    with (
        watchdog(health),
        StatusWriter(
            server.state, lambda: sorted(service.connected), notices=membership.notices
        ) as status,
        serving(
            registry,
            health,
            address=server.metrics_bind,
            port=server.metrics_port,
            setting=f"metrics_port {_TABLE}",
        ),
        console.serving(
            app,
            address=server.console_bind,
            port=server.console_port,
            setting=f"console_port {_TABLE}",
        ),
    ):
        yield Watchers(Several((status, metrics, board)), control)

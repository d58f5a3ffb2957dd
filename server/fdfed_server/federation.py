"""A run of a federation whose roster, plan and SuperLink are there: exchange hub, round loop."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ed25519
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fdfed.audit import AuditLog
from fdfed.config import RunPlan
from fdfed.evaluation.results import RunResults
from fdfed.exchange import HpkePrivateKey
from fdfed.membership.plan_signature import sign_plan
from fdfed.membership.roster import Roster
from fdfed.process.health import Pulse
from fdfed.process.log_tags import tag_run
from fdfed_server.audit_observer import AuditObserver
from fdfed_server.config import ServerConfig
from fdfed_server.exchange_service import ExchangeService
from fdfed_server.flower import RunGrid, SuperLink, register_sites, run_server_app
from fdfed_server.hub import ExchangeHub
from fdfed_server.membership import Membership
from fdfed_server.observer import Observer, Several
from fdfed_server.outputs import results_of, write_run
from fdfed_server.roster_carrier import RosterCarrier
from fdfed_server.rounds import RoundLoop, RunOutcome
from fdfed_server.run_state import resume, save_state
from fdfed_server.secret_relay import SecretRelay
from fdfed_server.strategy import Strategy
from fdfed_server.watching import watched

log = logging.getLogger(__name__)

_STAY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Premises:
    """What a run starts from."""

    server: ServerConfig
    plan: RunPlan
    """Of sites that the roster knows, or that were invited."""
    plan_key: ed25519.Ed25519PrivateKey
    """Signs the run plan and the coordinator's audit log."""
    hpke_key: HpkePrivateKey
    membership: Membership
    superlink: SuperLink
    """Begun; it may not answer yet."""
    pulse: Pulse


def run_federation(premises: Premises, *, observers: Sequence[Observer], stay: bool) -> RunResults:
    """Runs the plan to its end, from the last complete round in the state, and writes the results.

    Raises:
        InvalidInput: if the state folder belongs to another run, or a port is taken.
        QuorumNotMet: if a round fails in every attempt; the state is kept.
        PrivacyBudgetExceeded: if a site's privacy budget ended the training; the results of the
            rounds before are written.
    """
    server, plan, membership = premises.server, premises.plan, premises.membership
    superlink, pulse = premises.superlink, premises.pulse
    with ExitStack() as stack:
        key = premises.plan_key
        audit = stack.enter_context(AuditLog(server.state / "audit.log", key=key))
        strategy = Strategy(plan, plan_signature=sign_plan(plan, key))
        folder = server.state / "run"
        state = resume(folder, plan)
        if state is None:
            state = strategy.initial_state(secrets.token_hex(16))
            save_state(folder, state)
        tag_run(state.run_id)
        hub = ExchangeHub(strategy.cross_site_terms)
        stack.callback(hub.close)
        superlink.await_answer()
        service = _exchange_service(premises, hub)
        service.start()
        stack.callback(service.stop, grace=0.2)
        watchers = stack.enter_context(
            watched(
                server,
                state,
                hub=hub,
                service=service,
                superlink=superlink,
                membership=membership,
                pulse=pulse,
                note=lambda action: audit.append("in", "operator", action=action),
            )
        )
        blinded = plan.exchange.blinding == "on"
        loop = RoundLoop(
            strategy,
            hub,
            folder=folder,
            observer=Several((AuditObserver(audit), watchers.observer, *observers)),
            control=watchers.control,
            secrets=SecretRelay(min_sites=plan.exchange.min_sites) if blinded else None,
            rosters=RosterCarrier(lambda: membership.signed),
        )
        membership.on_change(lambda _: strategy.leave_out(membership.removed))
        membership.on_change(lambda _: service.enforce())
        membership.on_change(lambda roster: register_sites(superlink, _keys(roster, plan)))
        outcome: list[RunOutcome] = []
        # No annotation: Flower looks for a plain assignment.
        app = ServerApp()

        @app.main()
        def main(grid: Grid, _: Context) -> None:
            if isinstance(grid, RunGrid):
                membership.on_change(lambda roster: grid.set_sites(_keys(roster, plan)))
            with membership:
                outcome.append(loop.run(grid, state))

        run_server_app(
            app, superlink=superlink, node_keys=_keys(membership.roster, plan), pulse=pulse
        )
        results = results_of(outcome[0], transport="mTLS", sealed=True, blinded=blinded)
        write_run(server.state / "results", outcome[0], results)
        if stay:
            _stay(pulse)
        if outcome[0].stopped is not None:
            raise outcome[0].stopped
        return results


def _stay(pulse: Pulse) -> None:
    """Returns when this process is told to stop."""
    log.info("the run is complete; metrics and console stay until this process is stopped")
    with suppress(KeyboardInterrupt):
        while True:
            pulse.beat()
            time.sleep(_STAY_SECONDS)


def _keys(roster: Roster, plan: RunPlan) -> dict[str, str]:
    """The plan's sites that the roster lists, with their node keys."""
    return {site: key for site, key in roster.node_keys.items() if site in plan.sites}


def _exchange_service(premises: Premises, hub: ExchangeHub) -> ExchangeService:
    server = premises.server
    return ExchangeService(
        hub,
        address=f"{server.bind}:{server.exchange_port}",
        sites=premises.plan.sites,
        server_certificate=server.certificate.read_bytes(),
        server_key=server.key.read_bytes(),
        ca_certificate=server.ca.read_bytes(),
        hpke_key=premises.hpke_key,
        check_certificate=premises.membership.check_certificate,
    )

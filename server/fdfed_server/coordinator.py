"""`fdfed-server start`: what is checked before a run, and the SuperLink, which starts first."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import Final

# Before Flower is imported, which silences gRPC: nobody else says why a site's certificate was not
# accepted on the exchange, since a handshake that fails never reaches the hub.
os.environ.setdefault("GRPC_VERBOSITY", "info")

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed.evaluation.results import RunResults
from fdfed.exchange import HpkePrivateKey
from fdfed.files.state_format import COORDINATOR
from fdfed.files.state_lock import only_process
from fdfed.membership.plan_signature import read_plan_key
from fdfed.membership.roster import Roster
from fdfed.membership.roster_keeper import RosterKeeper
from fdfed.process.health import Pulse
from fdfed_server.config import FederationConfig, ServerConfig
from fdfed_server.enrolment_desk import read_invited
from fdfed_server.flower import SuperLink, prepare_process
from fdfed_server.interrupts import interruptible
from fdfed_server.membership import Membership
from fdfed_server.observer import Observer

log = logging.getLogger(__name__)

_BLINDING: Final = {
    "on": "on, this process sees distances between prototypes, never a prototype",
    "deterministic": "deterministic, it hides nothing from this process (test only)",
}
_STAY_SECONDS: Final = 1.0
_TWO_SITES: Final = (
    "; two sites alone: each can compute the other's prototypes exactly from its cotangents"
)


def run_coordinator(
    config: FederationConfig, *, observers: Sequence[Observer] = (), stay: bool = False
) -> RunResults:
    """Runs the federation of `config` to its end, from the last complete round in its state.

    Leaves `results/` in the state folder: model, results, table and report, aggregates only.

    Args:
        stay: then go on serving metrics and console until interrupted.

    Raises:
        InvalidInput: if the state folder belongs to another run or another coordinator, or a port
            is taken.
        QuorumNotMet: if a round fails in every attempt; the state is kept.
        PrivacyBudgetExceeded: if a site's privacy budget ended the training; the results of the
            rounds before are written.
    """
    server = config.server
    hpke_key = HpkePrivateKey.read(server.hpke_key)
    prepare_process(server.state)
    pulse = Pulse()
    with ExitStack() as stack:
        stack.enter_context(interruptible(pulse))
        stack.enter_context(
            only_process(
                server.state,
                form=COORDINATOR,
                remedy="stop it, or give this one another --state",
            )
        )
        membership = _membership(server)
        plan = _plan_for(config.run, membership.roster, invited=read_invited(server.invited))
        log.info(
            "layers: mutual TLS; %s; weights: %s; %s%s",
            _prototypes_layer(plan, hpke_key),
            _weights_layer(plan),
            plan.privacy.summary() if plan.privacy else "no differential privacy, no ε is claimed",
            _TWO_SITES if len(plan.sites) == 2 else "",
        )
        plan_key = _plan_key(server, membership.roster)
        log.info("run plan %s, signed: sites that approve plans approve this hash", plan.digest)
        superlink = SuperLink(server)
        stack.callback(superlink.stop)
        superlink.begin()
        # PyTorch, and what is built on it, takes seconds to load. The SuperLink starts meanwhile.
        from fdfed_server.federation import Premises, run_federation  # noqa: PLC0415

        premises = Premises(
            server=server,
            plan=plan,
            plan_key=plan_key,
            hpke_key=hpke_key,
            membership=membership,
            superlink=superlink,
            pulse=pulse,
        )
        return run_federation(premises, observers=observers, stay=stay)


def _membership(server: ServerConfig) -> Membership:
    used = server.state / "roster-used.json"
    own = {
        "the coordinator's certificate": server.certificate,
        "the consortium's authority": server.ca,
    }
    return Membership(
        RosterKeeper(server.roster, public_key=server.consortium_key, used=used),
        own_certificates={
            what: x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
            for what, path in own.items()
        },
    )


def _plan_key(server: ServerConfig, roster: Roster) -> ed25519.Ed25519PrivateKey:
    """The key that signs the run plan, and the coordinator's audit log.

    Raises:
        InvalidInput: if the key is not the one that the roster names: no site would take the plan.
    """
    key = read_plan_key(server.plan_key)
    if key.public_key().public_bytes_raw().hex() != roster.plan_key:
        raise InvalidInput(
            f"the key in {server.plan_key} is not the one that the roster names for run plans, so "
            "no site would take the plan; use the server folder and the roster of one provisioning"
        )
    return key


def _weights_layer(plan: RunPlan) -> str:
    if plan.aggregation != "masked":
        bound = "bounded" if plan.defence.update_bound == "on" else "NOT bounded"
        middle = plan.defence.robust.replace("_", " ")
        how = f", and averaged by their {middle}" if plan.aggregation == "robust" else ""
        return f"not masked, this process reads each site's update; their size is {bound}{how}"
    unbounded = "so the size of one site's update is not bounded"
    if len(plan.sites) == 2:
        return (
            "masked, but of two sites each has the other's update when it takes its own away; "
            f"this process reads their sum, {unbounded}"
        )
    return f"masked, this process reads their sum alone, {unbounded}"


def _plan_for(plan: RunPlan, roster: Roster, *, invited: Collection[str] = ()) -> RunPlan:
    """The plan with the roster's sites, if it names none; checked against the roster else.

    Args:
        invited: sites that may be named though they are not enrolled yet; the run waits for them.
    """
    if not plan.sites:
        plan = RunPlan.model_validate(plan.model_dump() | {"sites": tuple(roster.sites)})
    unknown = [site for site in plan.sites if site not in roster.sites and site not in invited]
    if unknown:
        raise InvalidInput(
            f"[run] sites names {', '.join(unknown)}, which the roster does not know; invite "
            "them (fdfed-server roster invite), or remove them from federation.toml"
        )
    if not plan.sites:
        raise InvalidInput("the roster has no site; make one with `fdfed-server provision`")
    if plan.strategy == "pooled":
        raise InvalidInput(
            "strategy = pooled puts all images in one place, which no federation of hospitals can "
            "do; use it in `fdfed simulate` alone"
        )
    if plan.exchange.delay_steps:
        raise InvalidInput(
            f"exchange.delay_steps = {plan.exchange.delay_steps:g} models a delay, and a "
            "federation has its own; use it in `fdfed simulate` alone"
        )
    return plan


def _prototypes_layer(plan: RunPlan, hpke_key: HpkePrivateKey) -> str:
    if plan.privacy is not None:
        return "what leaves of prototypes is noisy, and neither sealed nor blinded"
    blinding = _BLINDING[plan.exchange.blinding]
    return f"prototypes are sealed ({hpke_key.suite.value}); blinding: {blinding}"

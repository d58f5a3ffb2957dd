"""Who watches an agent: its Prometheus metrics and its console, each on loopback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from cryptography import x509

from fdfed import console
from fdfed.audit import exported
from fdfed.evaluation.joining import answer
from fdfed.process.health import Health, not_expired, state_is_writable
from fdfed.process.metrics import process_registry, serving
from fdfed.process.watchdog import watchdog
from fdfed.wire import EvaluateResult, TrainResult
from fdfed_client.config import SiteConfig
from fdfed_client.console import AgentBoard, agent_console
from fdfed_client.flower import Presence
from fdfed_client.joining import JoiningAnswer
from fdfed_client.membership import Membership
from fdfed_client.metrics import AgentMetrics
from fdfed_client.site import Site


@dataclass(frozen=True, slots=True)
class Watchers:
    """Tells metrics and console what the agent does."""

    metrics: AgentMetrics
    board: AgentBoard

    def noted(self, line: Mapping[str, Any]) -> None:
        """A line of the audit log is on disk."""
        self.metrics.noted(line)
        self.board.noted(line)

    def step_done(self, server_round: int, done: int, total: int) -> None:
        """A step of the training is done."""
        self.metrics.step_done(server_round, done, total)
        self.board.step_done(server_round, done, total)

    def answered(self, site: Site, result: TrainResult | EvaluateResult) -> None:
        """The site has trained or scored."""
        self.metrics.answered(site, result)
        self.board.answered(site, result)

    def joined(self, site: str, _run_id: str, found: JoiningAnswer) -> None:
        """The site knows whether joining helped it."""
        self.metrics.joined(found.joining)
        self.board.joined(answer(site, found.joining))


@contextmanager
def watched(
    config: SiteConfig, *, membership: Membership, presence: Presence
) -> Iterator[Watchers]:
    """Serves metrics, health and console of the site's agent for the time of the context.

    Args:
        presence: how the node stands with its coordinator.
    """
    registry, log = process_registry(), config.state / "audit.log"
    history = exported(log) if log.exists() else ()
    watchers = Watchers(
        AgentMetrics(registry, site=config.site), AgentBoard(config.site, history=history)
    )
    app = agent_console(
        watchers.board,
        site=config.site,
        access=console.Access(config.state / "console"),
        hosts=config.console_hosts,
    )
    health = agent_health(config, membership=membership, presence=presence)
    with (
        watchdog(health),
        serving(
            registry,
            health,
            address=config.metrics_bind,
            port=config.metrics_port,
            setting="metrics_port in site.toml",
        ),
        console.serving(
            app,
            address=config.console_bind,
            port=config.console_port,
            setting="console_port in site.toml",
        ),
    ):
        yield watchers


def agent_health(config: SiteConfig, *, membership: Membership, presence: Presence) -> Health:
    """What `/healthz` and `/readyz` of the site's agent look at."""

    def certificate() -> str:
        # Read each time: it may have been renewed.
        found = x509.load_pem_x509_certificate(config.certificate.read_bytes())
        return not_expired({"the site's certificate": found.not_valid_after_utc})

    return Health(
        live={"agent loop": presence.loop.check},
        ready={
            "coordinator": presence.check,
            "roster": membership.check,
            "certificate": certificate,
            "state": partial(state_is_writable, config.state),
        },
    )

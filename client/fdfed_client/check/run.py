"""All checks, in the order in which a person would solve them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed_client.check.exchange import check_exchange
from fdfed_client.check.identity import check_identity
from fdfed_client.check.images import check_images
from fdfed_client.check.machine import check_machine
from fdfed_client.check.network import check_exchange_port, check_way, proxy_for
from fdfed_client.check.result import CheckResult, warning
from fdfed_client.check.rules import check_rules
from fdfed_client.config import SiteConfig
from fdfed_client.plan_approval import PlanRecords


def run_checks(
    config: SiteConfig, *, data: Path | None = None, phantoms: bool = False
) -> Iterator[tuple[str, CheckResult]]:
    """A heading and a line, one after the other, so that a slow one holds up none before it.

    Args:
        data: as the agent takes it.
    """
    identity = list(check_identity(config))
    yield from (("Identity", result) for result in identity)
    way = []
    for result in check_way(config):
        way.append(result)
        yield "Way to the coordinator", result
    broken = any(result.level == "problem" for result in (*identity, *way))
    if not any(result.level == "problem" and result.topic == "name" for result in way):
        found = None if proxy_for(config.server) else check_exchange_port(config)
        if found is not None:
            yield "Way to the coordinator", found
            broken = broken or found.level == "problem"
        if not broken:
            yield "Way to the coordinator", check_exchange(config)
    plan, unreadable = _plan(config)
    for result in check_images(config, data, phantoms=phantoms):
        yield "This machine", result
    for result in check_machine(config, plan or RunPlan(), asked=plan is not None):
        yield "This machine", result
    if unreadable is not None:
        yield "Rules", unreadable
    approved = plan is not None and _is_approved(config, plan)
    for result in check_rules(config, plan, approved=approved):
        yield "Rules", result


def _plan(config: SiteConfig) -> tuple[RunPlan | None, CheckResult | None]:
    try:
        return PlanRecords(config.state).last(), None
    except InvalidInput as err:
        return None, warning("run plan", str(err), "the agent keeps a new one")


def _is_approved(config: SiteConfig, plan: RunPlan) -> bool:
    pinned = plan.digest in (config.policy.approved_plans or ())
    return pinned or PlanRecords(config.state).has_approved(plan.digest)

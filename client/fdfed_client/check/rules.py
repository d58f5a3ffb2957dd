"""The hospital's own rules, in short, and what they say to the plan that was asked for last."""

from __future__ import annotations

from collections.abc import Iterator

from fdfed.config import RunPlan
from fdfed_client.check.result import CheckResult, note, ok, problem
from fdfed_client.config import SiteConfig
from fdfed_client.egress import Policy, PolicyRefusal


def check_rules(
    config: SiteConfig, plan: RunPlan | None, *, approved: bool
) -> Iterator[CheckResult]:
    """The policy, and the plan where there is one."""
    yield ok("policy", policy_in_words(config))
    if plan is None:
        yield note("run plan", "none has come yet")
        return
    try:
        config.policy.check_plan(plan)
    except PolicyRefusal as err:
        yield problem("run plan", f"{plan.digest[:16]}…: {err}", "see above", exit_code=5)
        return
    if _needs_approval(config.policy) and not approved:
        yield problem(
            "run plan",
            f"{plan.digest[:16]}… is within the rules, and not approved",
            "read it with fdfed-client plan, and approve its hash",
            exit_code=5,
        )
        return
    yield ok("run plan", f"{plan.digest[:16]}… is within the rules")


def policy_in_words(config: SiteConfig) -> str:
    """What this hospital asks of whoever wants its weights."""
    policy = config.policy
    parts = [
        "signed plans only" if policy.require_signed_plan else "UNSIGNED PLANS ARE TAKEN",
        "a person approves each" if _needs_approval(policy) else "none needs approval",
        f"at least {config.min_sites} sites",
        f"scores over {config.min_count} images or more",
    ]
    if policy.require_masked_aggregation:
        parts.append("weights masked only")
    if policy.max_epsilon is not None:
        parts.append(f"ε of at most {policy.max_epsilon:g}")
    if "prototypes" not in policy.messages:
        parts.append("no prototypes")
    if policy.max_rounds is not None:
        parts.append(f"at most {policy.max_rounds} rounds")
    if config.allow_deterministic:
        parts.append("BLINDING THAT HIDES NOTHING IS TAKEN")
    return "; ".join(parts)


def _needs_approval(policy: Policy) -> bool:
    return policy.require_approval or policy.approved_plans is not None

"""A hospital's data-protection record: what is processed, why, where and how long, as far as the
run plan, the hospital's rules and its audit log say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from fdfed import __version__
from fdfed.audit import exported, verify
from fdfed.config import RunPlan, parse
from fdfed.errors import InvalidInput, RefusedByPolicy
from fdfed.evaluation.privacy_text import privacy_statement
from fdfed.evaluation.results import RunResults
from fdfed.evaluation.results_files import load_results
from fdfed_client.config import SiteConfig
from fdfed_client.console import AgentBoard
from fdfed_client.console.words import NEVER
from fdfed_client.plan_approval import PlanRecords
from fdfed_client.plan_words import plan_in_words


def data_protection_record(config: SiteConfig) -> str:
    """The record as Markdown, about the plan that was asked for last and all that the log holds.

    Raises:
        InvalidInput: if no plan has come yet, or there is no audit log.
        RefusedByPolicy: if the audit log is not as it was written: nothing is then known.
    """
    plan = PlanRecords(config.state).last()
    if plan is None:
        raise InvalidInput(
            f"no run plan has come to {config.site} yet; start the agent, and the coordinator "
            "sends it"
        )
    lines = list(exported(config.state))
    board = AgentBoard(config.site, history=lines).snapshot()
    entries = [json.loads(line) for line in lines]
    return _template().render(
        site=config.site,
        version=__version__,
        today=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        plan=plan,
        words=plan_in_words(plan),
        peers=[name for name in plan.sites if name != config.site],
        decisions=_decisions(entries, plan),
        audit=_audit(config, entries),
        counts=_counts(config, plan),
        privacy=_privacy(config, plan),
        never=NEVER,
        left=board["out"],
        held_back=board["held_back"],
        data=config.data or "the folder that --data names",
        state=config.state,
        fleet=config.fleet_address,
        exchange=config.exchange_address,
        protection=list(_protection(config, plan)),
    )


def _audit(config: SiteConfig, entries: list[Mapping[str, Any]]) -> dict[str, Any]:
    verdict = verify(config.state)
    if not verdict.sound:
        raise RefusedByPolicy(
            f"the audit log in {config.state} is not as it was written, so nothing is certain of "
            f"what left: {verdict.findings[0]}. `fdfed audit verify` shows all of it"
        )
    return {
        "lines": verdict.lines,
        "head": verdict.head,
        "signers": verdict.keys,
        "since": _minute(entries[0]["time"]),
        "until": _minute(entries[-1]["time"]),
    }


def _minute(time: str) -> str:
    return f"{datetime.fromisoformat(time):%Y-%m-%d %H:%M}"


def _decisions(entries: list[Mapping[str, Any]], plan: RunPlan) -> str:
    """What the log says was decided about this plan, each once, in the order of time."""
    found = [
        f"{line['decision']} on {_minute(line['time'])}"
        + (f" by {line['by']}" if "by" in line else "")
        + (f" (rule {line['rule']})" if "rule" in line else "")
        for line in entries
        if line["kind"] == "plan" and line.get("sha256") == plan.digest
    ]
    return "; ".join(dict.fromkeys(found))


def _counts(config: SiteConfig, plan: RunPlan) -> str:
    results = _own_results(config.state / "local", plan)
    if results is None or config.site not in results.sites:
        return ""
    own = results.sites[config.site]
    return f"{own.n_train}, {own.n_val}, {own.n_test}"


def _privacy(config: SiteConfig, plan: RunPlan) -> str:
    results = _own_results(config.state / "local", plan)
    if results is not None:
        return privacy_statement(results)
    if plan.privacy is not None:
        return f"Differential privacy is planned: {plan.privacy.summary()}."
    return (
        "Weights computed from images may tell something about them. There is no differential "
        "privacy, and no ε bounds what they tell."
    )


def _own_results(folder: Path, plan: RunPlan) -> RunResults | None:
    """This site's own results of the newest run under the plan, once that has ended."""
    newest_first = sorted(
        folder.glob("*/results.json"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    for path in newest_first:
        results = load_results(path)
        if parse(RunPlan, dict(results.config), source=str(path)).digest == plan.digest:
            return results
    return None


def _protection(config: SiteConfig, plan: RunPlan) -> Iterator[str]:
    policy = config.policy
    yield (
        "One gate for all that leaves, by this hospital's own rules; each thing is in the signed "
        "audit log before it leaves. The agent runs no code that it is sent."
    )
    yield "Mutual TLS; prototypes are sealed to the coordinator's pinned key beneath it."
    signed = (
        "only under a plan that the coordinator signed"
        if policy.require_signed_plan
        else ("ALSO UNDER A PLAN THAT NOBODY SIGNED")
    )
    asked = ", and only once a person here approved its hash" if policy.require_approval else ""
    yield f"This hospital trains {signed}{asked}."
    yield (
        f"Scores over fewer than {max(config.min_count, plan.min_count)} images, and prototypes of "
        f"fewer than {max(config.min_patients, plan.exchange.min_patients)} patients, do not leave."
    )
    if policy.max_epsilon is not None:
        yield f"A privacy budget of its own: ε of at most {policy.max_epsilon:g} over all runs."
    if config.require_masking or policy.require_masked_aggregation:
        yield "Weights leave under masks alone."


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fdfed_client"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  (Markdown, of this hospital's own files)
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("data-protection.md.j2")

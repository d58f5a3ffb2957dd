"""Whether this hospital trains for a plan: its signature, the site's rules, and a person's word.

A plan is known by its hash. What was approved is that hash and no other: a coordinator that changes
anything in it, in the middle of a run too, has another plan, which needs a new approval.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fdfed.audit import AuditLog
from fdfed.config import RunPlan
from fdfed.errors import CryptoError, InvalidInput
from fdfed.files import atomic_file
from fdfed.membership.plan_signature import check_plan_signature
from fdfed.process.health import Pulse
from fdfed_client.egress import EgressGate, Policy, PolicyRefusal
from fdfed_client.plan_words import plan_in_words

log = logging.getLogger(__name__)

Ask = Callable[[RunPlan], bool]
"""Shows the plan to the person at the terminal; whether they approved it."""

_POLL_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class PlanRecords:
    """The plan that was asked for last, and the hashes that a person approved."""

    folder: Path

    def keep(self, plan: RunPlan, signature: str) -> None:
        """Keeps the plan, for `fdfed-client plan` to show."""
        text = json.dumps({"plan": json.loads(plan.to_json()), "signature": signature})
        atomic_file.write_text(self._plan, text)

    def last(self) -> RunPlan | None:
        """The plan that was asked for last; None before any.

        Raises:
            InvalidInput: if another version of fdfed kept it.
        """
        try:
            return RunPlan.from_json(json.dumps(json.loads(self._plan.read_text())["plan"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as err:
            raise InvalidInput(f"{self._plan} does not hold a run plan; remove it") from err

    def approve(self, digest: str) -> None:
        """Notes that a person approved the plan of this hash."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self._approved, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(f"{digest}\n")

    def has_approved(self, digest: str) -> bool:
        """Whether a person approved the plan of this hash."""
        try:
            return digest in self._approved.read_text().split()
        except FileNotFoundError:
            return False

    @property
    def _plan(self) -> Path:
        return self.folder / "run-plan.json"

    @property
    def _approved(self) -> Path:
        return self.folder / "approved-plans"


class PlanApproval:
    """Admits the plan of each message before the site looks at it.

    Args:
        gate: knows the rules on what a plan may ask.
        records: where plans and approvals are kept.
        plan_key: the key of plans that the roster in force names.
        audit: gets a line for each plan that is admitted, refused or waits.
        required: a person must approve; `--approve` or the policy says so.
        ask: asks at this terminal; None waits for `fdfed-client plan --approve` elsewhere.
        stop: ends the waiting.
        pulse: beats while a person is waited for.
    """

    def __init__(
        self,
        policy: Policy,
        gate: EgressGate,
        records: PlanRecords,
        *,
        plan_key: Callable[[], str | None],
        audit: AuditLog,
        required: bool = False,
        ask: Ask | None = None,
        stop: threading.Event | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        self._pulse = pulse or Pulse()
        self._policy = policy
        self._gate = gate
        self._records = records
        self._plan_key = plan_key
        self._audit = audit
        self._required = required or policy.require_approval
        self._ask = ask
        self._stop = stop or threading.Event()
        self._admitted: tuple[str, str] | None = None
        self._declined: set[str] = set()

    def admit(self, plan: RunPlan, signature: str) -> None:
        """Returns if this site trains for the plan.

        Raises:
            CryptoError: if it is not signed by the coordinator.
            PolicyRefusal: if a rule forbids it, or nobody has approved it.
        """
        if (plan.digest, signature) == self._admitted:
            return
        self._gate.admit_plan(plan)
        self._check_signature(plan, signature)
        self._records.keep(plan, signature)
        by = self._approved_by(plan)
        self._note(plan, "allowed", by=by, plan_signature=signature)
        log.info("run plan %s: admitted, by %s", plan.digest, by)
        self._admitted = (plan.digest, signature)

    def _check_signature(self, plan: RunPlan, signature: str) -> None:
        if not self._policy.require_signed_plan:
            return
        try:
            check_plan_signature(plan, signature, public_key=self._plan_key())
        except CryptoError:
            self._note(plan, "refused", rule="require_signed_plan")
            raise

    def _approved_by(self, plan: RunPlan) -> str:
        """Who or what approved the plan; waits for a person where one must."""
        pinned = self._policy.approved_plans
        if pinned is not None and plan.digest in pinned:
            return "approved_plans in site.toml"
        if not self._required:
            if pinned is None:
                return "the rules of site.toml"
            self._note(plan, "refused", rule="approved_plans")
            raise PolicyRefusal(
                "approved_plans",
                f"the run plan {plan.digest} is not among approved_plans in [policy] of site.toml. "
                "`fdfed-client plan` shows it; add its hash to approve it",
            )
        if not self._records.has_approved(plan.digest):
            self._note(plan, "waits")
            self._await(plan)
        return "a person here"

    def _await(self, plan: RunPlan) -> None:
        if plan.digest in self._declined or not self._is_approved_in_time(plan):
            self._declined.add(plan.digest)
            self._note(plan, "refused", rule="require_approval")
            raise PolicyRefusal(
                "require_approval",
                f"the run plan {plan.digest} was not approved here; nothing is trained for it. "
                f"`fdfed-client plan --site NAME --approve {plan.digest}` approves it",
            )

    def _is_approved_in_time(self, plan: RunPlan) -> bool:
        if self._ask is not None:
            approved = self._ask(plan)
            if approved:
                self._records.approve(plan.digest)
            return approved
        log.warning(
            "a run plan awaits approval, by `fdfed-client plan --site NAME --approve %s`:\n%s",
            plan.digest,
            "\n".join(f"  {heading:<12} {text}" for heading, text in plan_in_words(plan)),
        )
        # The coordinator waits no longer than this either, and asks anew when it comes back.
        end = time.monotonic() + plan.round_deadline_seconds
        while not self._records.has_approved(plan.digest):
            self._pulse.beat()
            if self._stop.wait(_POLL_SECONDS) or time.monotonic() > end:
                return False
        return True

    def _note(self, plan: RunPlan, decision: str, **details: str) -> None:
        self._audit.append("in", "plan", decision=decision, sha256=plan.digest, **details)

"""The gate of the Flower channel: replies, failures, and the calls that keep the connection."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flwr.app import Message

from fdfed.audit import AuditLog
from fdfed.config import RunPlan
from fdfed.wire import PARCEL_BYTES, caption, footprint, has_tensors
from fdfed_client.egress.failures import is_public
from fdfed_client.egress.frames import FrameGate
from fdfed_client.egress.kinds import check_reply
from fdfed_client.egress.policy import Policy, PolicyRefusal
from fdfed_client.egress.rates import RoundBudget

log = logging.getLogger(__name__)

_CALL_BYTES: Final = 4 * 2**10
_CALLS: Final[Mapping[str, int]] = {
    "/v1/fleet/activate-node": _CALL_BYTES,
    "/v1/fleet/deactivate-node": _CALL_BYTES,
    "/v1/fleet/send-node-heartbeat": _CALL_BYTES,
    "/v1/fleet/pull-parcel": _CALL_BYTES,
    "/v1/fleet/pull-object": _CALL_BYTES,
    "/v1/fleet/confirm-message-received": _CALL_BYTES,
    # A reply: its metadata, the tree of its objects' hashes, and those objects that fit.
    "/v1/fleet/push-parcel": 4 * 2**20 + PARCEL_BYTES,
    # Flower cuts arrays into objects of 5 MiB.
    "/v1/fleet/push-object": 8 * 2**20,
}
"""Path of every call that an agent makes, and the most bytes of its request."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """A reply that may leave. The gate alone makes one, and the Flower node sends nothing else."""

    message: Message


class EgressGate:
    """What the site's rules say to each thing that is about to leave; every answer is audited.

    Args:
        site: this site's name.
        policy: the rules.
        min_count: fewest images behind a score that leaves.
        audit: has each line on disk before what it is about can move.
    """

    def __init__(self, site: str, policy: Policy, *, min_count: int, audit: AuditLog) -> None:
        self._site = site
        self._policy = policy
        self._min_count = min_count
        self._audit = audit
        self._budget = RoundBudget(policy.max_bytes_per_round)
        self._guard = threading.Lock()
        self._calls: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        """How often each rule has held something back, since the agent began."""
        self.frames = FrameGate(policy, audit=audit, budget=self._budget)
        """The gate of the exchange."""

    def admit_plan(self, plan: RunPlan) -> None:
        """Whether this site takes part in the plan.

        Raises:
            PolicyRefusal: if a rule forbids it.
        """
        try:
            self._policy.check_plan(plan)
        except PolicyRefusal as err:
            self._refuse("in", "plan", err, sha256=plan.digest)
            raise

    def arrived(self, message: Message) -> None:
        """Notes a message of the coordinator, before the app sees it."""
        size, digest = footprint(message.content)
        noted = caption(message.content)
        self._audit.append("in", str(noted.pop("kind")), bytes=size, sha256=digest, **noted)

    def clear(self, reply: Message, *, asked: str) -> Cleared:
        """The reply, cleared to leave; its line is on disk.

        Args:
            asked: Flower's type of the message that it answers.

        Raises:
            PolicyRefusal: if a rule forbids it.
            OSError: if the audit log cannot be written; then nothing leaves either.
        """
        self.frames.end_round()
        if reply.has_error():
            self._clear_failure(reply.error.reason)
            return Cleared(reply)
        size, digest = footprint(reply.content)
        noted: dict[str, Any] = dict(caption(reply.content))
        kind = str(noted.pop("kind"))
        details = {"bytes": size, "sha256": digest, **noted}
        try:
            self._check(kind, reply, asked, size, noted)
        except PolicyRefusal as err:
            self._refuse("out", kind, err, **details)
            raise
        self._audit.append("out", kind, decision="allowed", **details)
        return Cleared(reply)

    def call(self, path: str, size: int) -> None:
        """Admits one request of the Flower channel, by its path and the size of its body.

        Raises:
            PolicyRefusal: for a call that an agent has no need of, or a body too large for it.
        """
        most = _CALLS.get(path)
        if most is None or size > most:
            err = PolicyRefusal(
                "unknown_kind" if most is None else "schema",
                f"a request of {size} bytes to {path} was held back: "
                + ("no rule allows it" if most is None else f"at most {most} are allowed"),
            )
            self._refuse("out", "call", err, bytes=size)
            raise err
        with self._guard:
            self._calls[path.rsplit("/", 1)[-1]] += 1

    def note_connection(self, event: str) -> None:
        """Notes that the connection was made or left, and the calls since the last such line."""
        with self._guard:
            calls, self._calls = self._calls, Counter()
        named = {name.replace("-", "_"): count for name, count in sorted(calls.items())}
        self._audit.append("out", event, **named)

    def _check(
        self, kind: str, reply: Message, asked: str, size: int, noted: Mapping[str, Any]
    ) -> None:
        if kind not in self._policy.messages:
            raise PolicyRefusal(
                "messages",
                f"a {kind} reply was held back: messages in [policy] of site.toml does not list it",
            )
        if (
            kind == "trained"
            and self._policy.require_masked_aggregation
            and has_tensors(reply.content)
        ):
            raise PolicyRefusal(
                "require_masked_aggregation",
                "weights that are not masked were held back: require_masked_aggregation is on in "
                "[policy] of site.toml",
            )
        check_reply(kind, reply.content, asked=asked, site=self._site, min_count=self._min_count)
        if size > self._policy.max_update_bytes:
            raise PolicyRefusal(
                "max_update_bytes",
                f"a {kind} reply of {size} bytes was held back: max_update_bytes in [policy] of "
                f"site.toml is {self._policy.max_update_bytes}",
            )
        key = (str(noted.get("run", "")), int(noted.get("round", 0)), int(noted.get("attempt", 0)))
        self._budget.spend(key, size)

    def _clear_failure(self, reason: str | None) -> None:
        if reason is None or not is_public(reason):
            err = PolicyRefusal("schema", "a failure in words that are not of the fixed table")
            self._refuse("out", "failure", err)
            raise err
        self._audit.append("out", "failure", decision="allowed", bytes=len(reason), reason=reason)

    def _refuse(self, direction: Any, kind: str, err: PolicyRefusal, **details: Any) -> None:
        self.refusals[err.rule] += 1
        log.warning("egress: %s", err)
        self._audit.append(direction, kind, decision="refused", rule=err.rule, **details)

"""The gate of the exchange: a frame of prototypes a training step, and nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from fdfed.audit import AuditLog
from fdfed.exchange import FrameRefused, PrototypeFrame
from fdfed.exchange import exchange_pb2 as pb
from fdfed_client.egress.policy import Policy, PolicyRefusal
from fdfed_client.egress.rates import PerSecond, RoundBudget, RoundKey


@dataclass(slots=True)
class _Round:
    """What has crossed in one attempt at a round."""

    key: RoundKey
    frames: int = 0
    bytes: int = 0
    answers: int = 0
    bytes_in: int = 0
    digest: Any = field(default_factory=hashlib.sha256)


class FrameGate:
    """Clears each frame before it is sealed. One thread uses it, that of the training.

    The audit log gets a line before a round's first frame leaves, so that an agent that is killed
    has said that frames were about to; and two when the round is over, of all that crossed.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        audit: AuditLog,
        budget: RoundBudget,
        rate: PerSecond | None = None,
    ) -> None:
        self._policy = policy
        self._audit = audit
        self._budget = budget
        self._rate = rate or PerSecond(policy.max_frames_per_second)
        self._round: _Round | None = None
        self.refused = 0

    def release(self, content: pb.SiteContent) -> bytes:
        """The bytes to seal and send.

        Raises:
            PolicyRefusal: if they may not leave.
            OSError: if the audit log cannot be written; then nothing leaves either.
        """
        try:
            key, data = self._checked(content)
        except PolicyRefusal as err:
            self.refused += 1
            # The first of a row: a loop that is refused a thousand times must not fill the disk.
            if self.refused == 1:
                self._audit.append("out", "prototypes", decision="refused", rule=err.rule)
            raise
        if self._round is None or self._round.key != key:
            self.end_round()
            self._audit.append(
                "out", "prototypes", state="begun", decision="allowed", **_named(key)
            )
            self._round = _Round(key)
        self._round.frames += 1
        self._round.bytes += len(data)
        self._round.digest.update(data)
        return data

    def received(self, size: int) -> None:
        """Counts an answer of the hub."""
        if self._round is not None:
            self._round.answers += 1
            self._round.bytes_in += size

    def end_round(self) -> None:
        """Writes what has crossed since the round's first frame, if there is anything to write."""
        ended, self._round = self._round, None
        if self.refused > 1:
            self._audit.append("out", "prototypes", decision="refused", frames=self.refused - 1)
        self.refused = 0
        if ended is None:
            return
        step = _named(ended.key)
        self._audit.append(
            "out",
            "prototypes",
            state="ended",
            decision="allowed",
            frames=ended.frames,
            bytes=ended.bytes,
            sha256=ended.digest.hexdigest(),
            **step,
        )
        self._audit.append("in", "cotangents", frames=ended.answers, bytes=ended.bytes_in, **step)

    def _checked(self, content: pb.SiteContent) -> tuple[RoundKey, bytes]:
        kind = content.WhichOneof("content")
        if kind != "prototypes" or kind not in self._policy.messages:
            raise PolicyRefusal(
                "messages" if kind == "prototypes" else "unknown_kind",
                f"a frame with {kind or 'nothing'} was held back: messages in [policy] of "
                "site.toml does not list it",
            )
        try:
            frame = PrototypeFrame.from_proto(content.prototypes)
        except FrameRefused as err:
            raise PolicyRefusal("schema", f"a frame was held back: {err.code.name}") from err
        # Built again from what was read, so that no unknown field travels along.
        data = pb.SiteContent(prototypes=frame.to_proto()).SerializeToString()
        if len(data) > self._policy.max_update_bytes:
            raise PolicyRefusal(
                "max_update_bytes",
                f"a frame of {len(data)} bytes, and max_update_bytes in [policy] of site.toml is "
                f"{self._policy.max_update_bytes}",
            )
        key = (frame.key.run_id, frame.key.server_round, frame.key.attempt)
        self._rate.admit()
        self._budget.spend(key, len(data))
        return key, data


def _named(key: RoundKey) -> dict[str, str | int]:
    return {"run": key[0], "round": key[1], "attempt": key[2]}

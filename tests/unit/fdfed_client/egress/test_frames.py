"""The gate of the exchange: a frame of prototypes a step, within size and rate, and audited."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fdfed.audit import AuditLog
from fdfed.exchange import PrototypeFrame, StepKey
from fdfed.exchange import exchange_pb2 as pb
from fdfed_client.egress import FrameGate, Policy, PolicyRefusal
from fdfed_client.egress.rates import PerSecond, RoundBudget

from .conftest import RUN, lines_of


def content(step: int = 0, *, server_round: int = 5, attempt: int = 1) -> pb.SiteContent:
    frame = PrototypeFrame(
        key=StepKey(RUN, server_round, attempt, step),
        vector=np.linspace(0, 1, 36, dtype=np.float32),
        valid=np.ones(9, np.bool_),
    )
    return pb.SiteContent(prototypes=frame.to_proto())


Make = Callable[..., FrameGate]


@pytest.fixture
def make(audit: AuditLog) -> Make:
    def gate(*, clock: Callable[[], float] = lambda: 0.0, **rules: Any) -> FrameGate:
        policy = Policy(**rules)
        return FrameGate(
            policy,
            audit=audit,
            budget=RoundBudget(policy.max_bytes_per_round),
            rate=PerSecond(policy.max_frames_per_second, clock=clock),
        )

    return gate


def test_a_line_is_on_disk_before_the_first_frame_of_a_round_leaves(
    make: Make, tmp_path: Path
) -> None:
    gate = make()
    assert lines_of(tmp_path) == []
    gate.release(content(0))
    (begun,) = lines_of(tmp_path)
    assert (begun["kind"], begun["state"]) == ("prototypes", "begun")
    assert (begun["run"], begun["round"], begun["attempt"]) == (RUN, 5, 1)
    gate.release(content(1))
    assert len(lines_of(tmp_path)) == 1


def test_a_round_that_is_over_has_its_frames_bytes_and_digest_in_the_log(
    make: Make, tmp_path: Path
) -> None:
    gate = make()
    sent = [gate.release(content(step)) for step in range(4)]
    for _ in range(3):
        gate.received(50)
    gate.end_round()
    _, out, back = lines_of(tmp_path)
    assert (out["state"], out["frames"], out["bytes"]) == ("ended", 4, sum(map(len, sent)))
    assert out["sha256"] == hashlib.sha256(b"".join(sent)).hexdigest()
    assert (back["direction"], back["kind"]) == ("in", "cotangents")
    assert (back["frames"], back["bytes"]) == (3, 150)
    gate.end_round()
    assert len(lines_of(tmp_path)) == 3


def test_another_attempt_is_another_round_in_the_log(make: Make, tmp_path: Path) -> None:
    gate = make()
    gate.release(content(attempt=1))
    gate.release(content(attempt=2))
    states = [(line.get("state"), line["attempt"]) for line in lines_of(tmp_path)]
    assert states == [("begun", 1), ("ended", 1), (None, 1), ("begun", 2)]


def test_what_leaves_is_the_frame_and_nothing_that_travels_along(make: Make) -> None:
    plain = content()
    # A field that this version does not know, which protobuf would keep and send on.
    stowaway = pb.SiteContent.FromString(plain.SerializeToString() + b"\x7a\x03abc")
    assert stowaway.SerializeToString() != plain.SerializeToString()
    assert make().release(stowaway) == plain.SerializeToString()


@pytest.mark.parametrize(
    ("sent", "rules", "rule"),
    [
        pytest.param(pb.SiteContent(), {}, "unknown_kind", id="nothing"),
        pytest.param(content(), {"messages": ("trained",)}, "messages", id="not listed"),
        pytest.param(content(), {"max_update_bytes": 100}, "max_update_bytes", id="large"),
        pytest.param(content(), {"max_bytes_per_round": 100}, "max_bytes_per_round", id="budget"),
        pytest.param(
            pb.SiteContent(prototypes=pb.Prototypes(element_type=1, payload=b"an image")),
            *({}, "schema"),
            id="no frame",
        ),
    ],
)
def test_each_rule_holds_back_a_frame_that_breaks_it(
    sent: pb.SiteContent, rules: dict[str, Any], rule: str, make: Make, tmp_path: Path
) -> None:
    gate = make(**rules)
    for _ in range(3):
        with pytest.raises(PolicyRefusal) as caught:
            gate.release(sent)
        assert caught.value.rule == rule
    gate.end_round()
    first, more = lines_of(tmp_path)
    assert (first["decision"], first["rule"]) == ("refused", rule)
    assert more["frames"] == 2


def test_more_frames_in_a_second_than_the_policy_allows_are_held_back(make: Make) -> None:
    now = [100.0]
    gate = make(max_frames_per_second=3, clock=lambda: now[0])
    for step in range(3):
        gate.release(content(step))
    with pytest.raises(PolicyRefusal, match="max_frames_per_second"):
        gate.release(content(3))
    now[0] = 101.0
    gate.release(content(3))


def test_a_frame_that_the_budget_refuses_does_not_count_against_it(make: Make) -> None:
    size = len(content(1).SerializeToString())
    gate = make(max_bytes_per_round=2 * size)
    gate.release(content(0))
    gate.release(content(1))
    with pytest.raises(PolicyRefusal, match="max_bytes_per_round"):
        gate.release(content(2))
    gate.release(content(0, server_round=6))

"""A hospital trains for the plan that it approved, and for no other."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from flwr.app import Context, Message, RecordDict

from fdfed.audit import AuditLog
from fdfed.config import RunPlan
from fdfed.errors import CryptoError, RefusedByPolicy
from fdfed.membership.plan_signature import sign_plan
from fdfed.wire import Prepare, TrainInstruction
from fdfed_client.app import build_client_app
from fdfed_client.egress import EgressGate, Policy, PolicyRefusal
from fdfed_client.plan_approval import Ask, PlanApproval, PlanRecords
from fdfed_client.plan_words import plan_in_words
from fdfed_server.flower import set_task_identity

COORDINATOR = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SITE_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = COORDINATOR.public_key().public_bytes_raw().hex()
PLAN = RunPlan(sites=("a", "b", "c"), rounds=4)
SIGNATURE = sign_plan(PLAN, COORDINATOR)
LONGER = PLAN.model_copy(update={"rounds": 400})


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[AuditLog]:
    with AuditLog(tmp_path / "audit.log", key=SITE_KEY) as opened:
        yield opened


Make = Callable[..., PlanApproval]


@pytest.fixture
def make(audit: AuditLog, tmp_path: Path) -> Make:
    def approval(
        *,
        required: bool = False,
        ask: Ask | None = None,
        stop: threading.Event | None = None,
        **rules: Any,
    ) -> PlanApproval:
        policy = Policy(**rules)
        return PlanApproval(
            policy,
            EgressGate("a", policy, min_count=3, audit=audit),
            PlanRecords(tmp_path),
            plan_key=lambda: PUBLIC,
            audit=audit,
            required=required,
            ask=ask,
            stop=stop,
        )

    return approval


def decisions(folder: Path) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in (folder / "audit.log").read_text().splitlines()]
    return [
        (line["decision"], line.get("rule") or line.get("by", ""))
        for line in lines
        if line["kind"] == "plan"
    ]


def test_a_signed_plan_within_the_rules_is_admitted_and_noted_once(
    make: Make, tmp_path: Path
) -> None:
    approval = make()
    for _ in range(3):
        approval.admit(PLAN, SIGNATURE)
    assert decisions(tmp_path) == [("allowed", "the rules of site.toml")]
    assert PlanRecords(tmp_path).last() == PLAN


@pytest.mark.parametrize(
    ("plan", "signature"),
    [
        pytest.param(PLAN, "", id="unsigned"),
        pytest.param(LONGER, SIGNATURE, id="changed after signing"),
        pytest.param(PLAN, sign_plan(PLAN, SITE_KEY), id="signed by another"),
    ],
)
def test_a_plan_that_the_coordinator_did_not_sign_is_refused_and_not_even_kept(
    plan: RunPlan, signature: str, make: Make, tmp_path: Path
) -> None:
    with pytest.raises(CryptoError):
        make().admit(plan, signature)
    assert decisions(tmp_path) == [("refused", "require_signed_plan")]
    assert PlanRecords(tmp_path).last() is None


def test_a_site_may_say_that_it_takes_unsigned_plans(make: Make) -> None:
    make(require_signed_plan=False).admit(PLAN, "")


def test_with_pinned_hashes_a_signed_plan_of_another_hash_is_refused(
    make: Make, tmp_path: Path
) -> None:
    approval = make(approved_plans=(PLAN.digest,))
    approval.admit(PLAN, SIGNATURE)
    with pytest.raises(PolicyRefusal, match=LONGER.digest) as caught:
        approval.admit(LONGER, sign_plan(LONGER, COORDINATOR))
    assert caught.value.rule == "approved_plans"
    assert decisions(tmp_path)[-1] == ("refused", "approved_plans")


def test_a_plan_is_asked_about_once_and_the_answer_outlives_the_agent(make: Make) -> None:
    asked: list[str] = []

    def ask(plan: RunPlan) -> bool:
        asked.append(plan.digest)
        return True

    make(required=True, ask=ask).admit(PLAN, SIGNATURE)
    make(required=True, ask=ask).admit(PLAN, SIGNATURE)
    assert asked == [PLAN.digest]


def test_a_plan_that_was_declined_is_not_asked_about_again(make: Make) -> None:
    asked: list[str] = []

    def ask(plan: RunPlan) -> bool:
        asked.append(plan.digest)
        return False

    approval = make(required=True, ask=ask)
    for _ in range(2):
        with pytest.raises(PolicyRefusal, match="was not approved here"):
            approval.admit(PLAN, SIGNATURE)
    assert asked == [PLAN.digest]


class Elsewhere(threading.Event):
    """In the first pause of the waiting, somebody approves the plan at another terminal."""

    def __init__(self, records: PlanRecords, digest: str) -> None:
        super().__init__()
        self._records, self._digest = records, digest
        self.pauses = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses += 1
        self._records.approve(self._digest)
        return False


def test_an_agent_without_a_terminal_waits_until_the_plan_is_approved_elsewhere(
    make: Make, tmp_path: Path
) -> None:
    stop = Elsewhere(PlanRecords(tmp_path), PLAN.digest)
    make(require_approval=True, stop=stop).admit(PLAN, SIGNATURE)
    assert stop.pauses == 1
    assert decisions(tmp_path) == [("waits", ""), ("allowed", "a person here")]


def test_the_approval_of_another_plan_does_not_help(make: Make, tmp_path: Path) -> None:
    stop = Elsewhere(PlanRecords(tmp_path), LONGER.digest)
    short = PLAN.model_copy(update={"round_deadline_seconds": 1e-9})
    with pytest.raises(PolicyRefusal, match="not approved"):
        make(require_approval=True, stop=stop).admit(short, sign_plan(short, COORDINATOR))


# --- a coordinator that lies


class Trains:
    """A site that notes for which plan it trained."""

    def __init__(self) -> None:
        self.trained: list[str] = []

    def prepare(self, message: Prepare) -> Any:
        return message

    def train(self, message: TrainInstruction) -> Any:
        self.trained.append(message.plan.digest)
        return message


def instruction(plan: RunPlan, signature: str) -> RecordDict:
    return TrainInstruction(
        plan=plan,
        plan_signature=signature,
        run_id="ab" * 8,
        server_round=2,
        attempt=1,
        phase=1,
        total_examples=1,
        best_round=0,
        alpha=np.zeros(9),
        target=None,
        weights={},
    ).to_record()


def send(site: Any, approval: PlanApproval, kind: str, record: RecordDict) -> Message:
    set_task_identity(task_id=1, run_id=1, node_id=1)
    message = Message(record, dst_node_id=7, message_type=kind)
    context = Context(run_id=1, node_id=7, node_config={}, state=RecordDict(), run_config={})
    return build_client_app(site, admit_plan=approval.admit)(message=message, context=context)


@pytest.mark.parametrize("signed", [True, False])
def test_a_coordinator_that_changes_the_plan_after_its_approval_gets_no_training_for_it(
    signed: bool, make: Make
) -> None:
    site = Trains()
    approval = make(required=True, ask=lambda plan: plan == PLAN)
    prepare = Prepare(plan=PLAN, plan_signature=SIGNATURE, run_id="ab" * 8)
    send(site, approval, "query.prepare", prepare.to_record())
    send(site, approval, "train", instruction(PLAN, SIGNATURE))
    # In the middle of the run: a hundred times as many rounds, with a good signature and without.
    signature = sign_plan(LONGER, COORDINATOR) if signed else SIGNATURE
    with pytest.raises((RefusedByPolicy, CryptoError)):
        send(site, approval, "train", instruction(LONGER, signature))
    send(site, approval, "train", instruction(PLAN, SIGNATURE))
    assert site.trained == [PLAN.digest, PLAN.digest]


# --- in words


def test_the_words_say_what_a_hospital_must_know_before_it_agrees() -> None:
    words = dict(plan_in_words(PLAN))
    assert words["hash"] == PLAN.digest
    assert "sees this site's weights after every round" in words["aggregation"]
    half = PLAN.model_copy(update={"update_precision": "bf16"})
    assert "as their changes rounded to bf16" in dict(plan_in_words(half))["aggregation"]
    assert "no bound" in words["privacy"]
    # 4 rounds, of which ceil(4 · 100/175) = 3 are phase 1: one round of 10 steps exchanges.
    assert "prototypes of up to 10 batches" in words["what leaves"]
    assert "never an image or mask" in words["what leaves"]
    cold = PLAN.model_copy(update={"warm_start": False})
    assert "prototypes of up to 40 batches" in dict(plan_in_words(cold))["what leaves"]


def test_what_hides_nothing_is_said_so() -> None:
    rules = PLAN.exchange.model_copy(update={"blinding": "deterministic"})
    bare = PLAN.model_copy(update={"exchange": rules})
    assert "HIDES NOTHING" in dict(plan_in_words(bare))["exchange"]
    masked = PLAN.model_copy(update={"aggregation": "masked"})
    assert "not one site's weights" in dict(plan_in_words(masked))["aggregation"]
    table = {
        "epsilon": 8.0,
        "delta": 1e-5,
        "unit": "patient",
        "weights": {"noise_multiplier": 1.0, "max_grad_norm": 1.0},
    }
    private = RunPlan(sites=("a", "b"), loss="seg", norm="group", privacy=table)
    assert "ε of at most 8 a patient" in dict(plan_in_words(private))["privacy"]
    segmentation = PLAN.model_copy(update={"loss": "seg"})
    assert "no prototype leaves" in dict(plan_in_words(segmentation))["exchange"]

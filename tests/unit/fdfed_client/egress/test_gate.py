"""The gate of the Flower channel: everything that a site can say passes, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fdfed import wire
from fdfed.audit import AuditLog
from fdfed.config import RunPlan
from fdfed.exchange import exchange_pb2 as pb
from fdfed_client.egress import REPLIES, PolicyRefusal
from fdfed_client.egress.gate import _CALLS
from fdfed_client.egress.policy import MESSAGE_KINDS
from fdfed_server.flower.surface import HEALTH_PATH, PUBLIC_PATHS

from .conftest import SAMPLES, MakeGate, lines_of, reply_of


def said_by_sites() -> set[str]:
    """Names of all messages in `fdfed.wire` that go from a site to the coordinator."""
    return {
        name
        for name, thing in vars(wire).items()
        if dataclasses.is_dataclass(thing) and str(thing.__doc__).startswith("Site → coordinator")
    }


def test_every_message_of_a_site_has_its_form_at_the_gate_and_a_sample_here() -> None:
    assert {type(sample).__name__ for sample in SAMPLES.values()} == said_by_sites()
    assert set(SAMPLES) == set(REPLIES)
    contents = {field.name for field in pb.SiteContent.DESCRIPTOR.fields}
    assert set(MESSAGE_KINDS) == set(REPLIES) | contents


def test_the_gate_admits_the_calls_that_the_coordinator_answers_and_no_other() -> None:
    assert set(_CALLS) == PUBLIC_PATHS - {HEALTH_PATH}


@pytest.mark.parametrize("kind", SAMPLES)
def test_each_message_of_a_site_passes_and_is_on_disk_before_it_can_leave(
    kind: str, make_gate: MakeGate, tmp_path: Path
) -> None:
    record = SAMPLES[kind].to_record()
    cleared = make_gate().clear(reply_of(record, kind), asked=REPLIES[kind].answers)
    assert cleared.message.content is record
    (line,) = lines_of(tmp_path)
    assert (line["direction"], line["kind"], line["decision"]) == ("out", kind, "allowed")
    assert line["bytes"] > 0
    assert len(line["sha256"]) == 64


def test_run_round_and_attempt_of_a_message_are_in_its_line(
    make_gate: MakeGate, tmp_path: Path
) -> None:
    gate = make_gate()
    gate.arrived(reply_of(SAMPLES["evaluated"].to_record(), "evaluated"))
    gate.clear(reply_of(SAMPLES["trained"].to_record()), asked="train")
    came, left = lines_of(tmp_path)
    assert (came["direction"], came["round"]) == ("in", 3)
    assert (left["run"], left["round"], left["attempt"]) == ("ab" * 16, 3, 1)


def test_nothing_leaves_when_the_audit_log_cannot_be_written(
    make_gate: MakeGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    gate = make_gate()
    monkeypatch.setattr(AuditLog, "append", full)
    with pytest.raises(OSError, match="No space"):
        gate.clear(reply_of(SAMPLES["trained"].to_record()), asked="train")
    monkeypatch.undo()


# --- what is not on the list


def changed(record: RecordDict, part: str, **entries: Any) -> RecordDict:
    again = RecordDict(dict(record.items()))
    kind = type(record[part])
    again[part] = kind({**record[part], **entries})  # type: ignore[arg-type]
    return again


def trailing(record: RecordDict) -> RecordDict:
    """A vector behind whose numbers more bytes follow, which NumPy reads over."""
    alpha = record["vectors"]["alpha"]  # type: ignore[index]
    hidden = Array(alpha.dtype, alpha.shape, alpha.stype, alpha.data + b"patient 0815")
    return changed(record, "vectors", alpha=hidden)


TRAINED = SAMPLES["trained"].to_record()
MASKED = SAMPLES["masked"].to_record()
SMUGGLED = {
    "a part more": RecordDict({**TRAINED, "metrics": ConfigRecord({"auc": 0.9})}),
    "a key more": changed(TRAINED, "fdfed", patient="0815"),
    "a vector more": changed(TRAINED, "vectors", dice_by_image=Array(np.ones(30))),
    "bytes behind a vector": trailing(TRAINED),
    "an array beside the masked one": changed(MASKED, "masked", w=Array(np.ones(9))),
    "weights beside the masked numbers": RecordDict({**MASKED, "weights": TRAINED["weights"]}),
    "the examples beside the masked numbers": changed(MASKED, "fdfed", num_examples=30),
    "an array more": changed(TRAINED, "weights", image=Array(np.ones((8, 8)))),
    "weights where there are none": RecordDict(
        {**SAMPLES["evaluated"].to_record(), "weights": ArrayRecord({"x": Array(np.ones(9))})}
    ),
}


@pytest.mark.parametrize("what", SMUGGLED)
def test_a_reply_with_more_in_it_than_its_kind_has_place_for_is_held_back(
    what: str, make_gate: MakeGate, tmp_path: Path
) -> None:
    kind = "evaluated" if "none" in what else "masked" if "masked" in what else "trained"
    gate = make_gate()
    with pytest.raises(PolicyRefusal, match=r"held back|no place") as caught:
        gate.clear(reply_of(SMUGGLED[what], kind), asked=REPLIES[kind].answers)
    assert caught.value.rule == "schema"
    assert "0815" not in str(caught.value)
    (line,) = lines_of(tmp_path)
    assert (line["decision"], line["rule"]) == ("refused", "schema")
    assert gate.refusals["schema"] == 1


UNKNOWN = RecordDict({"fdfed": ConfigRecord({"format": 1, "kind": "images", "n": 3})})


@pytest.mark.parametrize(
    ("record", "kind", "rules", "rule"),
    [
        pytest.param(UNKNOWN, "trained", {}, "messages", id="an unknown kind"),
        pytest.param(RecordDict(), "trained", {}, "messages", id="no kind at all"),
        pytest.param(
            *(TRAINED, "trained", {"messages": ("prepared",)}, "messages"), id="not listed"
        ),
        pytest.param(TRAINED, "evaluated", {}, "schema", id="answers another message"),
        pytest.param(
            *(TRAINED, "trained", {"require_masked_aggregation": True}),
            "require_masked_aggregation",
            id="weights in the clear",
        ),
        pytest.param(TRAINED, "trained", {"max_update_bytes": 100}, "max_update_bytes", id="large"),
        pytest.param(
            *(SAMPLES["evaluated"].to_record(), "evaluated", {"min_count": 13}, "min_count"),
            id="scores over too few images",
        ),
        pytest.param(
            dataclasses.replace(SAMPLES["prepared"], site="monuseg").to_record(),
            *("prepared", {}, "site"),
            id="in another's name",
        ),
    ],
)
def test_each_rule_holds_back_what_breaks_it(
    record: RecordDict, kind: str, rules: dict[str, Any], rule: str, make_gate: MakeGate
) -> None:
    gate = make_gate(**rules)
    with pytest.raises(PolicyRefusal) as caught:
        gate.clear(reply_of(record, kind), asked=REPLIES[kind].answers)
    assert (caught.value.rule, caught.value.exit_code) == (rule, 5)
    assert gate.refusals == {rule: 1}


def test_the_bytes_of_a_round_are_bounded_and_a_new_attempt_begins_anew(
    make_gate: MakeGate,
) -> None:
    gate = make_gate(max_bytes_per_round=3000)
    gate.clear(reply_of(TRAINED), asked="train")
    gate.clear(reply_of(TRAINED), asked="train")
    with pytest.raises(PolicyRefusal, match="max_bytes_per_round") as caught:
        gate.clear(reply_of(TRAINED), asked="train")
    assert caught.value.rule == "max_bytes_per_round"
    again = dataclasses.replace(SAMPLES["trained"], attempt=2).to_record()
    gate.clear(reply_of(again), asked="train")


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("/v1/fleet/register-node", 10),
        ("/v1/control/start-run", 10),
        ("/v1/fleet/get-fab", 10),
        ("/v1/fleet/push-object/../../x", 10),
        ("/v1/fleet/send-node-heartbeat", 5000),
        ("/v1/fleet/push-object", 9 * 2**20),
        ("/v1/fleet/push-parcel", 13 * 2**20),
        ("/v1/fleet/push-messages", 10),
    ],
)
def test_a_call_that_no_agent_makes_is_held_back(
    path: str, size: int, make_gate: MakeGate, tmp_path: Path
) -> None:
    with pytest.raises(PolicyRefusal, match="held back"):
        make_gate().call(path, size)
    assert lines_of(tmp_path)[0]["decision"] == "refused"


def test_the_calls_of_a_connection_are_counted_in_its_lines(
    make_gate: MakeGate, tmp_path: Path
) -> None:
    gate = make_gate()
    for _ in range(3):
        gate.call("/v1/fleet/send-node-heartbeat", 50)
    gate.note_connection("left")
    (line,) = lines_of(tmp_path)
    assert (line["kind"], line["send_node_heartbeat"]) == ("left", 3)


# --- the plan


@pytest.mark.parametrize(
    ("rules", "plan", "rule"),
    [
        ({"allowed_networks": ("cmunet",)}, {"network": "unet"}, "allowed_networks"),
        ({"allowed_losses": ("seg", "fd")}, {"loss": "fd+exch"}, "allowed_losses"),
        ({"max_rounds": 10}, {"rounds": 11}, "max_rounds"),
        ({"require_masked_aggregation": True}, {}, "require_masked_aggregation"),
        ({"messages": ("prepared", "trained")}, {"loss": "fd+exch"}, "messages"),
    ],
)
def test_a_plan_that_a_rule_forbids_is_refused_and_one_that_it_allows_is_not(
    rules: dict[str, Any], plan: dict[str, Any], rule: str, make_gate: MakeGate, tmp_path: Path
) -> None:
    gate = make_gate(**rules)
    with pytest.raises(PolicyRefusal) as caught:
        gate.admit_plan(RunPlan(sites=("a", "b"), **plan))
    assert caught.value.rule == rule
    assert rule in str(caught.value)
    (line,) = lines_of(tmp_path)
    assert (line["direction"], line["kind"], line["rule"]) == ("in", "plan", rule)
    allowed = {"network": "cmunet", "loss": "seg", "rounds": 10, "aggregation": "masked"}
    gate.admit_plan(RunPlan(sites=("a", "b", "c"), **allowed))


# --- failures


def test_a_failure_leaves_only_in_the_words_of_the_table(make_gate: MakeGate) -> None:
    asked = Message(RecordDict(), dst_node_id=7, message_type="train")
    reply = Message(Error(2, "KeyError: patient 0815"), reply_to=asked)
    with pytest.raises(PolicyRefusal, match="fixed table"):
        make_gate().clear(reply, asked="train")

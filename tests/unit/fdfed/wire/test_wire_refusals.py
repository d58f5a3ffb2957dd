"""What each part of a record may not be, part by part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fdfed.config import RunPlan
from fdfed.errors import WireError
from fdfed.evaluation.results import SitePrivacy
from fdfed.privacy.masking_keys import MAX_ANNOUNCEMENT
from fdfed.wire import (
    EvaluateInstruction,
    EvaluateResult,
    MaskedResult,
    Ready,
    RosterInForce,
    SecretRequest,
    TrainInstruction,
)
from fdfed.wire.record import caption

RUN = "0123456789abcdef"
REQUEST = SecretRequest(run_id=RUN, server_round=1, attempt=1, members=("ad",), after_epoch=0)
MASKED = MaskedResult(
    run_id=RUN, server_round=1, attempt=1, seconds=1.0, values=np.arange(3, dtype=np.uint64)
)
ASKED = EvaluateInstruction(
    plan=RunPlan(sites=("ad", "tnbc")), run_id=RUN, server_round=0, part="test", weights={}
)


def header(message: Any, **changes: Any) -> RecordDict:
    record: RecordDict = message.to_record()
    record["fdfed"] = ConfigRecord({**record["fdfed"], **changes})
    return record


def masked(array: Array, name: str = "packed") -> RecordDict:
    record = MASKED.to_record()
    record["masked"] = ArrayRecord({name: array})
    return record


def without(record: RecordDict, part: str) -> RecordDict:
    del record[part]
    return record


@pytest.mark.parametrize(
    ("read", "make", "reason"),
    [
        (
            RosterInForce.from_record,
            lambda: header(RosterInForce(version=1, digest="d" * 64), digest="d" * 63),
            "digest is not a SHA-256",
        ),
        (SecretRequest.from_record, lambda: header(REQUEST, members="[1]"), "not a list of sites"),
        (SecretRequest.from_record, lambda: header(REQUEST, members='["A"]'), "list of sites"),
        (
            EvaluateInstruction.from_record,
            lambda: header(ASKED, part="training"),
            "only validation and test are scored",
        ),
        (
            EvaluateInstruction.from_record,
            lambda: without(ASKED.to_record(), "weights"),
            "without its 'weights' part",
        ),
        (
            EvaluateResult.from_record,
            lambda: header(
                EvaluateResult(run_id=RUN, server_round=1, part="test", dice=None, iou=None),
                withheld=False,
            ),
            "without the vector 'dice'",
        ),
        (
            Ready.from_record,
            lambda: header(Ready(announcement="{}"), announcement="a" * (MAX_ANNOUNCEMENT + 1)),
            "characters long; at most",
        ),
        (
            MaskedResult.from_record,
            lambda: masked(Array(np.zeros(3))),
            "masked numbers: is an array of <f8, not of <u8",
        ),
        (
            MaskedResult.from_record,
            lambda: masked(Array(np.zeros(3, np.uint64)), name="other"),
            "masked numbers are not the one array",
        ),
        (MaskedResult.from_record, lambda: header(MASKED, seconds=float("nan")), "not within ±"),
        (MaskedResult.from_record, RecordDict, "is the peer fdfed"),
    ],
)
def test_a_part_that_is_not_as_agreed_is_named(
    read: Callable[[RecordDict], object], make: Callable[[], RecordDict], reason: str
) -> None:
    with pytest.raises(WireError, match=reason):
        read(make())


def test_a_log_says_of_a_strangers_record_only_what_is_in_the_agreed_form() -> None:
    assert caption(REQUEST.to_record()) == {"kind": "secret", "run": RUN, "round": 1, "attempt": 1}
    odd = header(REQUEST, kind="K\n", run_id="../..", server_round=True, attempt=2)
    assert caption(odd) == {"kind": "unknown", "attempt": 2}
    assert caption(RecordDict()) == {"kind": "unknown"}


PRIVACY = SitePrivacy(epsilon=1.5, delta=1e-3, unit="patient", units=30)
SCORED = EvaluateResult(
    run_id=RUN, server_round=1, part="test", dice=None, iou=None, privacy=PRIVACY
)


def test_what_a_site_has_spent_survives_the_wire() -> None:
    assert EvaluateResult.from_record(SCORED.to_record()).privacy == PRIVACY


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "does not say what a site has spent"),
        ('{"epsilon": 1}', "does not say what a site has spent"),
        ('{"epsilon": -1, "delta": 0.1, "unit": "patient", "units": 3}', "impossible ε"),
        ('{"epsilon": NaN, "delta": 0.1, "unit": "patient", "units": 3}', "spent|impossible"),
        ('{"epsilon": 1, "delta": 1, "unit": "patient", "units": 3}', "impossible ε"),
        ('{"epsilon": 1, "delta": 0.1, "unit": "patient", "units": 0}', "impossible ε"),
    ],
)
def test_what_no_site_can_have_spent_is_refused(text: str, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        EvaluateResult.from_record(header(SCORED, privacy=text))


def test_late_cotangents_of_private_prototypes_survive_the_wire() -> None:
    sent = TrainInstruction(
        plan=ASKED.plan,
        run_id=RUN,
        server_round=2,
        attempt=1,
        phase=2,
        total_examples=9,
        best_round=1,
        alpha=np.zeros(2),
        target=None,
        cotangents=np.array([0.5, -0.25]),
        weights={},
    )
    got = TrainInstruction.from_record(sent.to_record()).cotangents
    np.testing.assert_array_equal(got, [0.5, -0.25])

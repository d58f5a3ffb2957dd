"""No word of an exception leaves the hospital."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdfed import errors
from fdfed.exchange import ExchangeCode, FrameRefused
from fdfed.training.local_round import ExchangeIncomplete
from fdfed_client.egress import PolicyRefusal, is_public, public_reason
from fdfed_client.egress.policy import RULES

OURS = [
    thing
    for thing in vars(errors).values()
    if isinstance(thing, type) and issubclass(thing, errors.FdfedError)
]


@pytest.mark.parametrize("kind", [*OURS, ExchangeIncomplete, ValueError, KeyError, MemoryError])
@pytest.mark.parametrize(
    "text", ["patient 0815", "/data/anna/scan.png", "tensor([0.1250, 3.5])", "Müller, Anna *1961"]
)
def test_a_patient_a_path_or_a_value_in_an_exception_stays_here(kind: Any, text: str) -> None:
    reason = public_reason(kind(text))
    assert is_public(reason)
    assert text not in reason
    assert reason == public_reason(kind("other"))


def test_a_class_that_somebody_names_after_a_patient_stays_here_too() -> None:
    stranger = type("Anna0815", (Exception,), {})
    ours = type("Anna0815", (errors.DataError,), {})
    assert public_reason(stranger("x")) == "InternalError: the agent has a fault; its log says more"
    assert public_reason(ours("x")) == public_reason(errors.DataError("y"))


def test_a_rule_is_named_and_only_one_of_the_list() -> None:
    assert "(rule max_rounds)" in public_reason(PolicyRefusal("max_rounds", "35 rounds"))
    assert "0815" not in public_reason(PolicyRefusal("patient 0815", "x"))
    assert all(is_public(public_reason(PolicyRefusal(rule, "x"))) for rule in RULES)


def test_a_refusal_of_the_hub_is_told_without_its_detail() -> None:
    reason = public_reason(FrameRefused(ExchangeCode.NOT_FINITE, "element 7 is nan"))
    assert is_public(reason)
    assert "element" not in reason


@given(text=st.text())
def test_no_other_sentence_is_public(text: str) -> None:
    assert not is_public(text)

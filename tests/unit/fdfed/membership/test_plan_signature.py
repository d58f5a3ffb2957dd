"""A run plan is believed only as the coordinator signed it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from fdfed.config import RunPlan
from fdfed.errors import CryptoError, InvalidInput
from fdfed.membership.plan_signature import check_plan_signature, read_plan_key, sign_plan

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw().hex()
PLAN = RunPlan(sites=("a", "b", "c"))


def test_the_signature_is_that_of_the_labelled_canonical_json() -> None:
    # Ed25519 is deterministic, so the signature can be worked with the library alone.
    expected = KEY.sign(b"fdfed run plan 1\n" + PLAN.to_json().encode()).hex()
    assert sign_plan(PLAN, KEY) == expected
    check_plan_signature(PLAN, expected, public_key=PUBLIC)


@given(
    change=st.one_of(
        st.fixed_dictionaries({"rounds": st.integers(1, 99)}),
        st.fixed_dictionaries({"network": st.sampled_from(["cmunet", "swin-unet"])}),
        st.fixed_dictionaries({"sites": st.lists(st.sampled_from("abcd"), unique=True)}),
        st.fixed_dictionaries({"min_count": st.integers(1, 9)}),
        st.fixed_dictionaries({"learning_rate": st.floats(1e-6, 1.0)}),
    )
)
def test_whatever_is_changed_in_a_plan_its_signature_does_not_fit_any_more(
    change: dict[str, Any],
) -> None:
    other = RunPlan.model_validate(PLAN.model_dump() | change)
    signature = sign_plan(PLAN, KEY)
    if other == PLAN:
        check_plan_signature(other, signature, public_key=PUBLIC)
        return
    with pytest.raises(CryptoError, match="was changed on the way"):
        check_plan_signature(other, signature, public_key=PUBLIC)


@pytest.mark.parametrize("signature", ["zz", "ab", "00" * 64])
def test_what_is_no_signature_is_refused(signature: str) -> None:
    with pytest.raises(CryptoError, match="not signed by the key"):
        check_plan_signature(PLAN, signature, public_key=PUBLIC)


def test_an_unsigned_plan_and_a_roster_without_a_key_are_told_apart() -> None:
    with pytest.raises(CryptoError, match="without a signature"):
        check_plan_signature(PLAN, "", public_key=PUBLIC)
    with pytest.raises(CryptoError, match="the roster names no key"):
        check_plan_signature(PLAN, sign_plan(PLAN, KEY), public_key=None)


def test_a_key_that_is_missing_or_unreadable_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.key"
    with pytest.raises(InvalidInput, match=r"plan\.key cannot be read"):
        read_plan_key(path)
    path.write_text("no key")
    with pytest.raises(CryptoError, match=r"plan\.key holds no Ed25519 key"):
        read_plan_key(path)
    path.write_text(KEY.private_bytes_raw().hex() + "\n")
    assert read_plan_key(path).private_bytes_raw() == KEY.private_bytes_raw()

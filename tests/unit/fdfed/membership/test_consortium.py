"""Signing policies: who must sign, and what a coordinator that tries to get round them is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.errors import CryptoError, InvalidInput
from fdfed.membership.consortium import (
    PolicyStep,
    Signature,
    SigningPolicy,
    lineage_digests,
    parse_signatures,
    policy_statement,
    sign,
    signatures_text,
)
from fdfed.membership.roster import Roster, SignedRoster, roster_signature

NAMES = ("alice", "bob", "carol", "dave", "mallory")
KEYS = {
    name: ed25519.Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    for number, name in enumerate(NAMES, start=1)
}


def policy_of(*names: str, threshold: int) -> SigningPolicy:
    public = {name: KEYS[name].public_key().public_bytes_raw().hex() for name in names}
    return SigningPolicy(threshold=threshold, signers=public)


TWO_OF_THREE = policy_of("alice", "bob", "carol", threshold=2)


def roster_of(*steps: PolicyStep, version: int = 1) -> Roster:
    return Roster(policies=steps or (PolicyStep(policy=TWO_OF_THREE),), version=version)


def signed(roster: Roster, *names: str) -> bytes:
    return signatures_text(
        [roster_signature(roster.text, signer=name, key=KEYS[name]) for name in names]
    )


def verify(
    roster: Roster, signatures: bytes, *, pinned: SigningPolicy = TWO_OF_THREE
) -> SignedRoster:
    return SignedRoster.verify(roster.text, signatures, pinned=pinned, source="roster.json")


@pytest.mark.parametrize("names", [("alice", "bob"), ("carol", "alice"), ("alice", "bob", "carol")])
def test_enough_signers_in_any_order_are_accepted(names: tuple[str, ...]) -> None:
    roster = roster_of()
    assert verify(roster, signed(roster, *names)).roster == roster


@given(names=st.lists(st.sampled_from(NAMES), unique=True), threshold=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_a_roster_counts_if_and_only_if_enough_listed_signers_and_no_others_signed(
    names: list[str], threshold: int
) -> None:
    policy = policy_of("alice", "bob", "carol", threshold=threshold)
    roster = roster_of(PolicyStep(policy=policy))
    good = set(names) <= set(policy.signers) and len(names) >= threshold
    try:
        verify(roster, signed(roster, *names), pinned=policy)
    except CryptoError:
        assert not good
    else:
        assert good


def test_one_signature_short_is_refused() -> None:
    roster = roster_of()
    with pytest.raises(CryptoError, match=r"1 signature\(s\), and .* asks for 2 of alice"):
        verify(roster, signed(roster, "alice"))


def test_one_signer_signing_twice_counts_once_and_is_refused() -> None:
    roster = roster_of()
    with pytest.raises(CryptoError, match="by alice twice"):
        verify(roster, signed(roster, "alice", "alice"))


def test_one_signer_under_two_names_is_refused() -> None:
    roster = roster_of()
    mine = roster_signature(roster.text, signer="alice", key=KEYS["alice"])
    twin = Signature(signer="bob", signature=mine.signature)
    with pytest.raises(CryptoError, match="by bob is not by the consortium's key"):
        verify(roster, signatures_text([mine, twin]))


def test_a_foreign_signer_is_refused_even_beside_enough_good_ones() -> None:
    roster = roster_of()
    with pytest.raises(CryptoError, match="signed by mallory, who is no signer"):
        verify(roster, signed(roster, "alice", "bob", "mallory"))


def test_a_signature_of_an_older_version_does_not_serve_a_newer_one() -> None:
    old, new = roster_of(version=1), roster_of(version=2)
    with pytest.raises(CryptoError, match="a version replayed"):
        verify(new, signed(old, "alice", "bob"))


def test_a_policy_of_the_coordinators_own_is_not_the_pinned_one() -> None:
    own = policy_of("mallory", threshold=1)
    roster = roster_of(PolicyStep(policy=own))
    with pytest.raises(CryptoError, match="signed under other keys"):
        verify(roster, signed(roster, "mallory"))


def step_to(policy: SigningPolicy, after: tuple[PolicyStep, ...], *names: str) -> PolicyStep:
    statement = policy_statement(lineage_digests(after)[-1], policy)
    signatures = tuple(sign(statement, signer=name, key=KEYS[name]) for name in names)
    return PolicyStep(policy=policy, signatures=signatures)


FIRST = (PolicyStep(policy=TWO_OF_THREE),)
NEXT = policy_of("carol", "dave", threshold=1)


def test_the_old_signers_can_hand_over_to_new_ones() -> None:
    roster = roster_of(*FIRST, step_to(NEXT, FIRST, "alice", "bob"))
    assert verify(roster, signed(roster, "dave")).policy == NEXT
    with pytest.raises(CryptoError, match="alice, who is no signer"):
        verify(roster, signed(roster, "alice", "bob"))


def test_who_pinned_the_later_policy_needs_no_older_one() -> None:
    roster = roster_of(*FIRST, step_to(NEXT, FIRST, "alice", "bob"))
    assert verify(roster, signed(roster, "carol"), pinned=NEXT).policy == NEXT


@pytest.mark.parametrize("names", [(), ("alice",), ("dave",), ("carol", "dave")])
def test_a_change_of_policy_without_the_old_ones_signatures_is_refused(
    names: tuple[str, ...],
) -> None:
    roster = roster_of(*FIRST, step_to(NEXT, FIRST, *names))
    with pytest.raises(CryptoError, match="the change of policy in"):
        verify(roster, signed(roster, "dave"))


def test_a_change_of_policy_serves_at_its_place_alone() -> None:
    # From A to B, back to A, and then the first change is brought again.
    there = step_to(NEXT, FIRST, "alice", "bob")
    back = step_to(TWO_OF_THREE, (*FIRST, there), "dave")
    again = roster_of(*FIRST, there, back, there)
    with pytest.raises(CryptoError, match="the change of policy in"):
        verify(again, signed(again, "dave"))


def test_a_roster_of_an_earlier_version_without_a_policy_says_what_to_do() -> None:
    with pytest.raises(InvalidInput, match="an earlier version made it"):
        SignedRoster.verify(b'{"sites": {}}', b"[]", pinned=TWO_OF_THREE, source="roster.json")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 4}, "can never be met"),
        ({"threshold": 0}, "threshold"),
        ({"signers": {}}, "signers"),
        ({"signers": {"a": "00" * 31}}, "signers.a"),
        (
            {"signers": {"a": TWO_OF_THREE.signers["bob"], "b": TWO_OF_THREE.signers["bob"]}},
            "one key",
        ),
    ],
)
def test_a_policy_that_cannot_be_kept_is_refused_with_its_file(
    tmp_path: Path, values: dict[str, object], message: str
) -> None:
    path = tmp_path / "consortium.pub"
    path.write_text(json.dumps(TWO_OF_THREE.model_dump() | values))
    with pytest.raises(InvalidInput, match=message) as caught:
        SigningPolicy.load(path)
    assert "consortium.pub" in str(caught.value)


def test_a_policy_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "consortium.pub"
    path.write_text(TWO_OF_THREE.text)
    assert SigningPolicy.load(path) == TWO_OF_THREE
    assert TWO_OF_THREE.summary == "2 of alice, bob, carol"
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match="holds no signing policy"):
        SigningPolicy.load(path)


@pytest.mark.parametrize("text", [b"", b"{}", b'[{"signer": "a"}]', b"\xff", b"[" * 100_000])
def test_what_is_no_list_of_signatures_is_refused(text: bytes) -> None:
    with pytest.raises(CryptoError, match="no signatures that can be read"):
        parse_signatures(text, source="roster.sig")


def test_more_signatures_than_any_policy_has_signers_are_not_even_looked_at() -> None:
    many = [Signature(signer="alice", signature="0" * 128)] * 33
    with pytest.raises(CryptoError, match="at most 32"):
        parse_signatures(signatures_text(many), source="roster.sig")

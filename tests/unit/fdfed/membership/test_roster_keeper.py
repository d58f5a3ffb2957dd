"""The roster that a running party goes by: newer ones are taken up, nothing else is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.errors import CryptoError
from fdfed.membership.consortium import (
    PolicyStep,
    SigningPolicy,
    lineage_digests,
    policy_statement,
    sign,
)
from fdfed.membership.roster import Roster, sign_roster
from fdfed.membership.roster_keeper import RosterKeeper

KEY, OTHER = (ed25519.Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))


def policy_of(key: ed25519.Ed25519PrivateKey) -> SigningPolicy:
    return SigningPolicy(
        threshold=1, signers={"consortium": key.public_key().public_bytes_raw().hex()}
    )


FIRST = (PolicyStep(policy=policy_of(KEY)),)


def roster_of(version: int, *more: PolicyStep) -> Roster:
    return Roster(version=version, policies=(*FIRST, *more))


@dataclass
class Party:
    """A folder with the three files, and its state."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "roster.json"

    def put(self, roster: Roster, key: ed25519.Ed25519PrivateKey = KEY) -> None:
        self.path.write_bytes(roster.text)
        self.path.with_suffix(".sig").write_bytes(sign_roster(roster.text, key))

    def keeper(self) -> RosterKeeper:
        return RosterKeeper(
            self.path,
            public_key=self.folder / "consortium.pub",
            used=self.folder / "state" / "roster-used.json",
        )


@pytest.fixture
def party(tmp_path: Path) -> Party:
    (tmp_path / "consortium.pub").write_text(policy_of(KEY).text)
    party = Party(tmp_path)
    party.put(roster_of(5))
    return party


def test_a_newer_roster_on_disk_is_taken_up_and_an_unchanged_one_is_not_news(party: Party) -> None:
    keeper = party.keeper()
    assert not keeper.refresh()
    party.put(roster_of(6))
    assert keeper.refresh()
    assert keeper.current.roster.version == 6
    assert not keeper.refresh()


@pytest.mark.parametrize("kind", ["older", "unsigned", "foreign", "no json", "gone"])
def test_what_does_not_hold_is_named_and_the_roster_in_force_stays(
    party: Party, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = party.keeper()
    match kind:
        case "older":
            party.put(roster_of(4))
        case "unsigned":
            party.put(roster_of(6))
            party.path.with_suffix(".sig").unlink()
        case "foreign":
            party.put(roster_of(6), OTHER)
        case "no json":
            party.path.write_bytes(b"{")
        case "gone":
            party.path.unlink()
    assert not keeper.refresh()
    assert not keeper.refresh()
    assert keeper.current.roster.version == 5
    assert caplog.text.count("the roster on disk is not used") == 1


def test_a_pair_that_is_half_written_is_no_news_until_it_is_whole(
    party: Party, caplog: pytest.LogCaptureFixture
) -> None:
    keeper, new = party.keeper(), roster_of(6)
    party.path.write_bytes(new.text)
    assert not keeper.refresh()
    party.path.with_suffix(".sig").write_bytes(sign_roster(new.text, KEY))
    assert keeper.refresh()
    assert "not used" not in caplog.text


def test_after_a_crash_between_two_writes_the_roster_used_last_serves(
    party: Party, caplog: pytest.LogCaptureFixture
) -> None:
    party.keeper()
    party.path.write_bytes(roster_of(6).text)
    assert party.keeper().current.roster.version == 5
    assert "going by the roster used last" in caplog.text


def test_an_old_roster_does_not_come_back_after_a_restart(party: Party) -> None:
    party.keeper()
    party.put(roster_of(4))
    with pytest.raises(CryptoError, match="version 4, but version 5 has been used"):
        party.keeper()


def test_two_rosters_of_one_version_are_refused(party: Party) -> None:
    keeper, other = party.keeper(), roster_of(5)
    other = other.model_copy(update={"policies": (*FIRST, _step(policy_of(OTHER)))})
    with pytest.raises(CryptoError, match="signers made two"):
        keeper.adopt(other.text, sign_roster(other.text, OTHER), source="relay")


def _step(policy: SigningPolicy) -> PolicyStep:
    statement = policy_statement(lineage_digests(FIRST)[-1], policy)
    return PolicyStep(policy=policy, signatures=(sign(statement, signer="consortium", key=KEY),))


def test_signers_who_were_replaced_cannot_sign_a_roster_of_a_later_version(party: Party) -> None:
    keeper, handover = party.keeper(), roster_of(6, _step(policy_of(OTHER)))
    assert keeper.adopt(handover.text, sign_roster(handover.text, OTHER), source="relay")
    # The pinned policy alone would still let the old key sign a lineage without the handover.
    fork = roster_of(7)
    with pytest.raises(CryptoError, match="signers who were replaced"):
        keeper.adopt(fork.text, sign_roster(fork.text, KEY), source="relay")
    party.put(fork)
    with pytest.raises(CryptoError, match="signers who were replaced"):
        party.keeper()


def test_a_roster_that_is_relayed_is_written_to_the_file_once_it_holds(party: Party) -> None:
    keeper, new = party.keeper(), roster_of(6)
    with pytest.raises(CryptoError, match="not by the consortium's key"):
        keeper.adopt(new.text, sign_roster(new.text, OTHER), source="relay")
    assert party.keeper().current.roster.version == 5
    assert keeper.adopt(new.text, sign_roster(new.text, KEY), source="relay")
    assert not keeper.adopt(new.text, sign_roster(new.text, KEY), source="relay")
    assert not keeper.refresh()
    assert party.keeper().current.roster.version == 6


def test_a_damaged_copy_of_the_roster_used_last_stops_the_party(party: Party) -> None:
    party.keeper()
    (party.folder / "state" / "roster-used.json").write_text("?")
    with pytest.raises(CryptoError, match="restore it from a backup"):
        party.keeper()


def test_a_state_folder_of_another_consortium_is_refused(party: Party) -> None:
    party.keeper()
    other = Roster(policies=(PolicyStep(policy=policy_of(OTHER)),), version=9)
    (party.folder / "consortium.pub").write_text(policy_of(OTHER).text)
    party.put(other, OTHER)
    with pytest.raises(CryptoError, match="a state folder of its own"):
        party.keeper()

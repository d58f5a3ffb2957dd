"""What a coordinator can try with the secret of the sites, each refused at the site by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fdfed.config import RunPlan
from fdfed.errors import CryptoError, RefusedByPolicy, WireError
from fdfed.exchange import BlindingSecret
from fdfed.membership.roster import SignedRoster
from fdfed.wire import (
    RosterInForce,
    RosterRelay,
    SecretOffer,
    SecretRequest,
    TrainInstruction,
)
from fdfed_client.config import SiteConfig
from fdfed_client.group import GroupSecrets
from fdfed_client.membership import Membership
from fdfed_server.provision import provision, provision_site

RUN = "0" * 16
NOW = 1_800_000_000_000
SITES = ("tnbc", "monuseg", "udiat")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("consortium")
    provision(SITES, out)
    return out


@pytest.fixture
def consortium(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def group_of(consortium: Path, site: str, *, now: int = NOW, **settings: Any) -> GroupSecrets:
    config = SiteConfig.load(consortium / "sites" / site / "site.toml")
    group = GroupSecrets.of(config.model_copy(update=settings))
    group._clock_ms = lambda: now
    return group


def request_of(*members: str, **changes: Any) -> SecretRequest:
    base = SecretRequest(run_id=RUN, server_round=3, attempt=1, members=members, after_epoch=0)
    return replace(base, **changes)


def instruction_of(offer: SecretOffer | str, **changes: Any) -> TrainInstruction:
    exchange = changes.pop("exchange", {})
    base = TrainInstruction(
        plan=RunPlan.model_validate({"sites": SITES, "exchange": exchange}),
        run_id=RUN,
        server_round=3,
        attempt=1,
        phase=2,
        total_examples=9,
        best_round=0,
        offer=offer if isinstance(offer, str) else offer.text,
        alpha=np.zeros(1),
        target=None,
        weights={},
    )
    return replace(base, **changes)


def test_all_members_open_one_secret_and_the_text_does_not_hold_it(consortium: Path) -> None:
    offer = group_of(consortium, "tnbc").make(request_of(*SITES))
    got = {group_of(consortium, site).secret_of(instruction_of(offer)) for site in SITES}
    assert len(got) == 1
    (secret,) = got
    assert secret.epoch == NOW
    assert secret.data.hex() not in offer.text


def test_every_secret_is_fresh(consortium: Path) -> None:
    maker, taker = group_of(consortium, "tnbc"), group_of(consortium, "udiat")
    first, second = (
        taker.secret_of(instruction_of(maker.make(request_of("tnbc", "udiat")))) for _ in range(2)
    )
    assert first.data != second.data
    assert second.epoch > first.epoch


def test_messages_survive_the_wire(consortium: Path) -> None:
    request = request_of(*SITES)
    assert SecretRequest.from_record(request.to_record()) == request
    offer = group_of(consortium, "tnbc").make(request)
    assert SecretOffer.from_record(offer.to_record()) == offer
    relay = RosterRelay(roster="{}", signatures="[]")
    assert RosterRelay.from_record(relay.to_record()) == relay
    in_force = RosterInForce(version=3, digest="0" * 64)
    assert RosterInForce.from_record(in_force.to_record()) == in_force
    with pytest.raises(WireError, match="not a SHA-256"):
        RosterInForce.from_record(replace(in_force, digest="x").to_record())


# (a) a puppet site


def test_a_puppet_that_the_coordinator_names_is_given_no_secret(consortium: Path) -> None:
    with pytest.raises(CryptoError, match="puppet as a member, which is not in the roster"):
        group_of(consortium, "tnbc").make(request_of("tnbc", "puppet"))


def test_a_roster_with_a_puppet_added_is_refused(consortium: Path) -> None:
    def add(roster: dict[str, Any]) -> None:
        roster["sites"]["puppet"] = dict(roster["sites"]["udiat"]) | {"node_public_key": "x"}

    altered(consortium, add)
    with pytest.raises(CryptoError, match="not by the consortium's key"):
        group_of(consortium, "tnbc")


def test_a_consortium_of_the_coordinators_own_does_not_match_the_pinned_key(
    consortium: Path, tmp_path: Path
) -> None:
    provision((*SITES, "puppet"), tmp_path / "own")
    for name in ("roster.json", "roster.sig"):
        shutil.copy(tmp_path / "own" / "server" / name, consortium / "sites" / "tnbc" / name)
    with pytest.raises(CryptoError, match="signed under other keys"):
        group_of(consortium, "tnbc")


# (b) a swapped key


def test_a_roster_with_another_hpke_key_is_refused(consortium: Path) -> None:
    def swap(roster: dict[str, Any]) -> None:
        sites = roster["sites"]
        sites["udiat"]["hpke_public_key"] = sites["monuseg"]["hpke_public_key"]

    altered(consortium, swap)
    with pytest.raises(CryptoError, match="a key exchanged"):
        group_of(consortium, "tnbc")


def altered(consortium: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = consortium / "sites" / "tnbc" / "roster.json"
    roster = json.loads(path.read_text())
    change(roster)
    path.write_text(json.dumps(roster))


# (c) replay


def test_a_secret_is_taken_once_also_after_a_restart(consortium: Path) -> None:
    offer = group_of(consortium, "tnbc").make(request_of(*SITES))
    group_of(consortium, "udiat").secret_of(instruction_of(offer))
    with pytest.raises(CryptoError, match="Epochs never go back"):
        group_of(consortium, "udiat").secret_of(instruction_of(offer))


def test_an_older_secret_that_was_never_used_is_refused_too(consortium: Path) -> None:
    maker, taker = group_of(consortium, "tnbc"), group_of(consortium, "udiat")
    old, new = (maker.make(request_of(*SITES)) for _ in range(2))
    taker.secret_of(instruction_of(new))
    with pytest.raises(CryptoError, match="Epochs never go back"):
        taker.secret_of(instruction_of(old))


@pytest.mark.parametrize("other", [{"server_round": 4}, {"attempt": 2}, {"run_id": "1" * 16}])
def test_a_secret_serves_the_attempt_that_it_was_made_for(
    consortium: Path, other: dict[str, Any]
) -> None:
    offer = group_of(consortium, "tnbc").make(request_of(*SITES))
    with pytest.raises(CryptoError, match="serves one attempt"):
        group_of(consortium, "udiat").secret_of(instruction_of(offer, **other))


def test_a_damaged_epoch_file_stops_the_site_instead_of_starting_over(consortium: Path) -> None:
    group = group_of(consortium, "udiat")
    group.secret_of(instruction_of(group_of(consortium, "tnbc").make(request_of(*SITES))))
    (consortium / "sites" / "udiat" / "state" / "group-epoch").write_text("?")
    with pytest.raises(CryptoError, match="restore it from a backup"):
        group.make(request_of(*SITES))


def test_an_epoch_far_ahead_cannot_lock_the_sites_out(consortium: Path) -> None:
    with pytest.raises(CryptoError, match="day ahead"):
        group_of(consortium, "tnbc").make(request_of(*SITES, after_epoch=2**61))
    ahead = group_of(consortium, "tnbc", now=2**61).make(request_of(*SITES))
    with pytest.raises(CryptoError, match="day ahead"):
        group_of(consortium, "udiat").secret_of(instruction_of(ahead))


def test_a_maker_whose_clock_is_behind_follows_the_latest_epoch(consortium: Path) -> None:
    first = group_of(consortium, "tnbc").make(request_of(*SITES))
    taker = group_of(consortium, "udiat")
    taker.secret_of(instruction_of(first))
    late = group_of(consortium, "monuseg", now=NOW - 3_600_000)
    second = late.make(request_of(*SITES, after_epoch=first.epoch))
    assert taker.secret_of(instruction_of(second)).epoch == NOW + 1


# (d) no signature


def test_a_roster_whose_signature_was_stripped_is_refused(consortium: Path) -> None:
    (consortium / "sites" / "tnbc" / "roster.sig").unlink()
    with pytest.raises(CryptoError, match="is not signed"):
        group_of(consortium, "tnbc")


@pytest.mark.parametrize("signature", ["", "00" * 64])
def test_an_offer_without_the_makers_signature_is_refused(consortium: Path, signature: str) -> None:
    offer = json.loads(group_of(consortium, "tnbc").make(request_of(*SITES)).text)
    offer["signature"] = signature
    with pytest.raises(CryptoError, match=r"can be read|not signed by that site's key"):
        group_of(consortium, "udiat").secret_of(instruction_of(json.dumps(offer)))


def test_no_offer_at_all_is_no_way_to_plain_prototypes(consortium: Path) -> None:
    with pytest.raises(CryptoError, match="never leave without one"):
        group_of(consortium, "udiat").secret_of(instruction_of(""))


# (e) a maker that is no member, and an offer that was tampered with


def test_a_secret_of_a_non_member_is_refused(consortium: Path, tmp_path: Path) -> None:
    provision((*SITES, "stranger"), tmp_path / "own")
    text = group_of(tmp_path / "own", "stranger").make(request_of(*SITES)).text
    offer = json.loads(text)
    with pytest.raises(CryptoError, match="offered under the roster"):
        group_of(consortium, "udiat").secret_of(instruction_of(text))
    offer["context"]["roster"] = own_digest(consortium)
    with pytest.raises(CryptoError, match="stranger, which is no member"):
        group_of(consortium, "udiat").secret_of(instruction_of(json.dumps(offer)))
    offer["context"]["maker"] = "tnbc"
    with pytest.raises(CryptoError, match="not signed by that site's key"):
        group_of(consortium, "udiat").secret_of(instruction_of(json.dumps(offer)))


def own_digest(consortium: Path) -> str:
    folder = consortium / "server"
    return SignedRoster.load(folder / "roster.json", public_key=folder / "consortium.pub").digest


def test_a_recipient_cannot_be_added_removed_or_exchanged(consortium: Path) -> None:
    text = group_of(consortium, "tnbc").make(request_of("tnbc", "udiat")).text
    for change in (
        lambda sealed: sealed.update(monuseg=sealed["udiat"]),
        lambda sealed: sealed.pop("tnbc"),
        lambda sealed: sealed.update(udiat=sealed["tnbc"]),
    ):
        offer = json.loads(text)
        change(offer["sealed"])
        with pytest.raises(CryptoError, match="forged or altered"):
            group_of(consortium, "udiat").secret_of(instruction_of(json.dumps(offer)))


def test_a_site_that_is_left_out_says_so(consortium: Path) -> None:
    offer = group_of(consortium, "tnbc").make(request_of("tnbc", "monuseg"))
    with pytest.raises(CryptoError, match="not to udiat"):
        group_of(consortium, "udiat").secret_of(instruction_of(offer))


# what the site itself decides


def test_an_approved_list_narrows_the_roster_for_maker_and_receiver(consortium: Path) -> None:
    folder = consortium / "server"
    roster = SignedRoster.load(folder / "roster.json", public_key=folder / "consortium.pub").roster
    only = {"approved": (roster.sites["monuseg"].fingerprint,)}
    with pytest.raises(CryptoError, match="udiat is in the roster, but tnbc has not approved"):
        group_of(consortium, "tnbc", **only).make(request_of(*SITES))
    group_of(consortium, "tnbc", **only).make(request_of("tnbc", "monuseg"))
    offer = group_of(consortium, "udiat").make(request_of(*SITES))
    with pytest.raises(CryptoError, match="has not approved"):
        group_of(consortium, "tnbc", **only).secret_of(instruction_of(offer))


@pytest.mark.parametrize("where", ["site", "plan"])
def test_with_fewer_sites_than_asked_for_nothing_is_exchanged(consortium: Path, where: str) -> None:
    offer = group_of(consortium, "tnbc").make(request_of("tnbc", "udiat"))
    site = {"min_sites": 3} if where == "site" else {}
    plan = {"min_sites": 3} if where == "plan" else {}
    with pytest.raises(RefusedByPolicy, match="min_sites asks for 3"):
        group_of(consortium, "udiat", **site).secret_of(instruction_of(offer, exchange=plan))


def test_a_secret_that_the_coordinator_knows_needs_the_sites_own_leave(consortium: Path) -> None:
    message = instruction_of("", exchange={"blinding": "deterministic"})
    with pytest.raises(RefusedByPolicy, match="could undo the blinding"):
        group_of(consortium, "tnbc").secret_of(message)
    got = group_of(consortium, "tnbc", allow_deterministic=True).secret_of(message)
    assert got == BlindingSecret.known_to_all(message.plan.seed)


def test_two_sites_are_told_what_they_learn_of_each_other(
    consortium: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    offer = group_of(consortium, "tnbc").make(request_of("tnbc", "udiat"))
    group_of(consortium, "udiat").secret_of(instruction_of(offer))
    assert "two sites alone" in caplog.text


def test_a_new_site_changes_the_roster_for_everybody(consortium: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    shutil.copytree(consortium / "sites" / "udiat", away)
    provision_site("busi", consortium)
    offer = group_of(consortium, "monuseg").make(request_of(*SITES, "busi"))
    config = SiteConfig.load(away / "site.toml")
    with pytest.raises(CryptoError, match="need the same signed roster"):
        GroupSecrets.of(config).secret_of(instruction_of(offer))
    assert group_of(consortium, "tnbc").secret_of(instruction_of(offer)).epoch == NOW
    assert own_digest(consortium) in offer.text


def test_a_running_agent_follows_the_newer_roster_on_its_disk(consortium: Path) -> None:
    running = group_of(consortium, "tnbc")
    with pytest.raises(CryptoError, match="busi as a member, which is not in the roster"):
        running.make(request_of(*SITES, "busi"))
    provision_site("busi", consortium)
    assert running.make(request_of(*SITES, "busi")).epoch == NOW


def test_a_running_agent_takes_the_roster_that_is_relayed_if_the_consortium_signed_it(
    consortium: Path, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    shutil.copytree(consortium / "sites" / "udiat", away)
    membership = Membership.of(SiteConfig.load(away / "site.toml"))
    provision_site("busi", consortium)
    text, signatures = (
        (consortium / "server" / name).read_bytes() for name in ("roster.json", "roster.sig")
    )
    with pytest.raises(CryptoError, match="a key exchanged"):
        membership.adopt(text.replace(b"busi", b"evil"), signatures)
    assert "busi" not in membership.member.roster.roster.sites
    assert "busi" in membership.adopt(text, signatures).roster.sites
    assert "busi" in membership.member.roster.roster.sites


def test_a_roster_that_lists_other_keys_for_this_site_is_refused(consortium: Path) -> None:
    shutil.copy(
        consortium / "sites" / "udiat" / "signing.key",
        consortium / "sites" / "tnbc" / "signing.key",
    )
    with pytest.raises(CryptoError, match="with the keys that are here"):
        group_of(consortium, "tnbc")


def test_an_old_roster_does_not_come_back(consortium: Path, tmp_path: Path) -> None:
    folder, old = consortium / "sites" / "tnbc", tmp_path / "old"
    old.mkdir()
    for name in ("roster.json", "roster.sig"):
        shutil.copy(folder / name, old / name)
    provision_site("busi", consortium)
    group_of(consortium, "tnbc")
    for name in ("roster.json", "roster.sig"):
        shutil.copy(old / name, folder / name)
    with pytest.raises(CryptoError, match="version 1, but version 2"):
        group_of(consortium, "tnbc")

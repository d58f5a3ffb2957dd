"""Changes of the roster: enrolment with keys of the site's own, and the signatures they need."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.errors import CryptoError, InvalidInput
from fdfed.membership.consortium import SigningPolicy, signatures_text
from fdfed.membership.enrolment import EnrolmentRequest
from fdfed.membership.roster import Roster, SignedRoster, roster_signature
from fdfed_client.enrolment import SiteFolder
from fdfed_client.membership import Membership
from fdfed_server.config import FederationConfig
from fdfed_server.handing_out import hand_out
from fdfed_server.provision import provision, provision_site
from fdfed_server.roster_change import (
    add_signature,
    draft_policy,
    draft_removal,
    draft_site,
    merge_signatures,
    publish,
)
from fdfed_server.roster_difference import Difference
from fdfed_server.vault import Vault, read_signer_key

SIGNERS = ("alice", "bob", "carol")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("consortium")
    provision(["tnbc", "udiat"], out, signers=SIGNERS, threshold=2, with_site_keys=False)
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


@pytest.fixture
def vault(out: Path) -> Vault:
    return Vault(out / "consortium")


def key_of(vault: Vault, name: str) -> ed25519.Ed25519PrivateKey:
    return read_signer_key(vault.folder.parent / "signers" / f"{name}.key")


def put_into_force(vault: Vault, *names: str) -> SignedRoster:
    before = vault.roster.sites
    for name in names or ("alice", "carol"):
        add_signature(vault, key_of(vault, name))
    signed = publish(vault)
    hand_out(vault, signed, vault.folder.parent, before=before)
    return signed


def site_of(vault: Vault, name: str) -> SiteFolder:
    return SiteFolder.open(vault.folder.parent / "sites" / name)


def enrol(vault: Vault, name: str) -> SiteFolder:
    site = site_of(vault, name)
    draft_site(vault, site.request(), days=30)
    put_into_force(vault)
    site.complete((site.folder / "answer.json").read_bytes(), source="the answer")
    return site


def test_a_pack_and_what_the_server_gets_hold_no_private_key_of_a_site(out: Path) -> None:
    names = {path.name for path in (out / "sites" / "tnbc").iterdir()}
    assert names == {
        *("ca.pem", "consortium.pub", "invitation.json", "server-hpke.pub", "site.toml"),
        *("roster.json", "roster.sig"),
    }
    assert {p.name for p in (out / "signers").iterdir()} == {f"{name}.key" for name in SIGNERS}
    assert not (out / "consortium" / "consortium.key").exists()


def test_the_keys_are_made_at_the_site_and_its_request_holds_public_halves_alone(
    vault: Vault,
) -> None:
    site = site_of(vault, "tnbc")
    request = site.request()
    text = (site.folder / "request.json").read_text()
    for name in ("site.key", "node.key", "hpke.key", "signing.key"):
        path = site.folder / name
        assert path.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in text
    for name in ("hpke.key", "signing.key"):
        assert (site.folder / name).read_text().strip().split()[-1] not in text
    assert site.folder.stat().st_mode & 0o777 == 0o700
    assert site_of(vault, "tnbc").request() == request, "asking again makes nothing anew"


def test_an_enrolled_site_is_a_member_whose_certificate_its_own_key_fits(vault: Vault) -> None:
    site = enrol(vault, "tnbc")
    member = Membership.of(site.config).member
    assert member.roster.roster.version == 2
    assert member.roster.roster.sites["tnbc"].fingerprint == vault.roster.sites["tnbc"].fingerprint
    assert "tnbc" not in vault.tokens, "an invitation serves once"
    assert "udiat" in vault.tokens
    toml = FederationConfig.load(vault.folder.parent / "server" / "federation.toml")
    assert toml.run.sites == ("tnbc", "udiat"), "who is invited and not enrolled yet stays named"


# what somebody on the way, the coordinator included, can try with a request


def tampered(request: EnrolmentRequest, **changes: str) -> bytes:
    return request.model_copy(update=changes).model_dump_json().encode()


def test_a_request_whose_keys_were_exchanged_is_refused(vault: Vault, tmp_path: Path) -> None:
    mine, other = site_of(vault, "tnbc").request(), site_of(vault, "udiat").request()
    for field in ("csr", "node_public_key", "hpke_public_key", "vouched", "site"):
        changed = tampered(mine, **{field: getattr(other, field)})
        with pytest.raises(CryptoError, match=r"altered after"):
            EnrolmentRequest.parse(changed, source="request.json")


def test_a_puppets_request_without_the_invitation_is_refused(vault: Vault) -> None:
    site = site_of(vault, "tnbc")
    site.request()
    forged = EnrolmentRequest.make(
        site="tnbc",
        csr=site.request().csr,
        node_public_key=site.request().node_public_key,
        hpke_public_key=site.request().hpke_public_key,
        signing_key=ed25519.Ed25519PrivateKey.generate(),
        token="00" * 32,
    )
    with pytest.raises(CryptoError, match="no unused invitation vouches"):
        draft_site(vault, forged, days=30)
    with pytest.raises(CryptoError, match="these are not the hospital's keys"):
        draft_site(vault, forged, days=30, fingerprint=site.request().fingerprint)
    assert vault.draft is None
    draft_site(vault, forged, days=30, fingerprint=forged.fingerprint)


def test_a_signing_request_for_another_name_is_refused(vault: Vault) -> None:
    site, other = site_of(vault, "tnbc").request(), site_of(vault, "udiat").request()
    swapped = EnrolmentRequest.make(
        site="tnbc",
        csr=other.csr,
        node_public_key=site.node_public_key,
        hpke_public_key=site.hpke_public_key,
        signing_key=ed25519.Ed25519PrivateKey.generate(),
        token=None,
    )
    with pytest.raises(CryptoError, match="asks for another name"):
        EnrolmentRequest.parse(swapped.model_dump_json().encode(), source="x")


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff", b"[" * 70_000, b'{"format": 2}'])
def test_what_is_no_request_is_refused_with_our_error(text: bytes) -> None:
    with pytest.raises(InvalidInput):
        EnrolmentRequest.parse(text, source="request.json")


# what can be tried with an answer


def test_an_answer_for_another_site_or_other_keys_is_refused(vault: Vault, tmp_path: Path) -> None:
    tnbc, udiat = site_of(vault, "tnbc"), site_of(vault, "udiat")
    for site in (tnbc, udiat):
        draft_site(vault, site.request(), days=30)
    put_into_force(vault)
    answer = (udiat.folder / "answer.json").read_bytes()
    with pytest.raises(CryptoError, match="for other keys than those of tnbc"):
        tnbc.complete(answer, source="the answer")
    mixed = answer.replace(b'"site":"udiat","certificate"', b'"site":"tnbc","certificate"')
    with pytest.raises(CryptoError, match="it was exchanged on the way"):
        tnbc.complete(mixed, source="the answer")
    assert not tnbc.is_enrolled


def test_an_answer_of_a_consortium_of_the_coordinators_own_is_refused(
    vault: Vault, tmp_path: Path
) -> None:
    provision(["tnbc"], tmp_path / "own", with_site_keys=False)
    own, site = Vault(tmp_path / "own" / "consortium"), site_of(vault, "tnbc")
    draft_site(own, site.request(), days=30, fingerprint=site.request().fingerprint)
    add_signature(own, read_signer_key(own.folder / "consortium.key"))
    hand_out(own, publish(own), own.folder.parent)
    answer = (own.folder / "answers" / "tnbc.json").read_bytes()
    with pytest.raises(CryptoError, match="signed under other keys"):
        site.complete(answer, source="the answer")
    assert not site.is_enrolled


# signatures


def test_a_change_needs_as_many_signers_as_the_policy_says(vault: Vault) -> None:
    draft_site(vault, site_of(vault, "tnbc").request(), days=30)
    add_signature(vault, key_of(vault, "bob"))
    add_signature(vault, key_of(vault, "bob"))
    with pytest.raises(CryptoError, match=r"1 signature\(s\), and .* asks for 2"):
        publish(vault)
    stranger = ed25519.Ed25519PrivateKey.generate()
    with pytest.raises(CryptoError, match="no signer's"):
        add_signature(vault, stranger)
    add_signature(vault, key_of(vault, "alice"))
    assert publish(vault).roster.version == 2


def test_signatures_made_on_other_machines_are_brought_together(vault: Vault) -> None:
    draft_site(vault, site_of(vault, "tnbc").request(), days=30)
    draft = vault.draft
    assert draft is not None
    for name in ("alice", "bob"):
        made = roster_signature(draft.text, signer=name, key=key_of(vault, name))
        merge_signatures(vault, [made])
    assert publish(vault).roster == draft


def test_a_signature_given_for_an_older_draft_does_not_serve_the_next_one(vault: Vault) -> None:
    draft_site(vault, site_of(vault, "tnbc").request(), days=30)
    for name in ("alice", "bob"):
        add_signature(vault, key_of(vault, name))
    old = vault.draft_signatures
    draft_site(vault, site_of(vault, "udiat").request(), days=30)
    assert vault.draft_signatures == ()
    merge_signatures(vault, old)
    with pytest.raises(CryptoError, match="altered since"):
        publish(vault)


def test_a_draft_that_another_change_overtook_is_not_put_into_force(vault: Vault) -> None:
    draft_site(vault, site_of(vault, "tnbc").request(), days=30)
    overtaken = vault.draft
    assert overtaken is not None
    put_into_force(vault)
    vault.put_draft(overtaken)
    with pytest.raises(InvalidInput, match="version 3 comes next"):
        add_signature(vault, key_of(vault, "alice"))


def test_the_signers_see_what_a_draft_changes(vault: Vault) -> None:
    enrol(vault, "tnbc")
    draft_removal(vault, "tnbc")
    draft_site(vault, site_of(vault, "udiat").request(), days=30)
    draft = vault.draft
    assert draft is not None
    difference = Difference.between(vault.roster, draft)
    assert (set(difference.added), difference.removed) == ({"udiat"}, ("tnbc",))
    assert difference.plan_key is None
    other = draft.model_copy(update={"plan_key": "0" * 64})
    assert Difference.between(vault.roster, other).plan_key == "0" * 64
    put_into_force(vault)
    toml = FederationConfig.load(vault.folder.parent / "server" / "federation.toml")
    assert toml.run.sites == ("udiat",), "who was removed is named no more"


def test_a_change_of_signers_needs_the_old_ones_first_and_the_new_ones_then(vault: Vault) -> None:
    site = enrol(vault, "tnbc")
    dora = ed25519.Ed25519PrivateKey.generate()
    new = SigningPolicy(threshold=1, signers={"dora": dora.public_key().public_bytes_raw().hex()})
    draft_policy(vault, new)
    with pytest.raises(CryptoError, match="no signer's"):
        add_signature(vault, dora)
    add_signature(vault, key_of(vault, "alice"))
    with pytest.raises(CryptoError, match="the change of signers has 1 signature"):
        publish(vault)
    with pytest.raises(InvalidInput, match="finish it"):
        draft_removal(vault, "tnbc")
    add_signature(vault, key_of(vault, "carol"))
    with pytest.raises(CryptoError, match=r"0 signature\(s\), and .* asks for 1 of dora"):
        publish(vault)
    add_signature(vault, dora)
    signed = publish(vault)
    hand_out(vault, signed, vault.folder.parent)
    assert (signed.policy, signed.roster.version) == (new, 3)
    # A site that pinned the first policy follows; the old signers sign nothing any more.
    assert Membership.of(site.config).member.roster.policy == new
    draft_removal(vault, "tnbc")
    with pytest.raises(CryptoError, match="no signer's"):
        add_signature(vault, key_of(vault, "alice"))


def test_a_policy_of_the_coordinators_own_cannot_be_slipped_into_a_roster(vault: Vault) -> None:
    enrol(vault, "tnbc")
    mallory = ed25519.Ed25519PrivateKey.generate()
    own = SigningPolicy(
        threshold=1, signers={"mallory": mallory.public_key().public_bytes_raw().hex()}
    )
    current = vault.roster
    step = current.policies[0].model_copy(update={"policy": own})
    forged = Roster.model_validate(
        current.model_dump() | {"version": 3, "policies": (*current.policies, step)}
    )
    signature = roster_signature(forged.text, signer="mallory", key=mallory)
    with pytest.raises(CryptoError, match="the change of policy in"):
        SignedRoster.verify(
            forged.text, signatures_text([signature]), pinned=vault.pinned, source="roster.json"
        )


# renewing


def test_a_renewal_keeps_the_keys_and_lets_both_certificates_in(vault: Vault) -> None:
    site = enrol(vault, "tnbc")
    before = vault.roster.sites["tnbc"]
    request = site.request(renewal=True)
    assert request.vouched == ""
    draft_site(vault, request, days=60)
    put_into_force(vault)
    after = vault.roster.sites["tnbc"]
    assert after.fingerprint == before.fingerprint
    assert after.certificate_expires > before.certificate_expires
    assert after.has_certificate(sha256=before.certificate_sha256, serial=before.certificate_serial)
    answer = (site.folder / "answer.json").read_bytes()
    assert site.is_news(answer)
    site.complete(answer, source="the answer")
    assert not site.is_news(answer)
    assert Membership.of(site.config).member.roster.roster.version == 3


def test_other_keys_for_a_listed_site_need_a_telephone_call_and_say_so(vault: Vault) -> None:
    enrol(vault, "tnbc")
    shutil.rmtree(vault.folder.parent / "sites" / "tnbc")
    made = vault.folder.parent / "again"
    provision(["tnbc"], made, with_site_keys=False)
    request = SiteFolder.open(made / "sites" / "tnbc").request()
    with pytest.raises(InvalidInput, match="--replace-keys"):
        draft_site(vault, request, days=30)
    with pytest.raises(CryptoError, match="by telephone"):
        draft_site(vault, request, days=30, replace_keys=True)
    draft_site(vault, request, days=30, replace_keys=True, fingerprint=request.fingerprint)
    draft = vault.draft
    assert draft is not None
    assert set(Difference.between(vault.roster, draft).replaced) == {"tnbc"}


def test_one_more_hospital_is_invited_under_the_policy_that_holds_now(vault: Vault) -> None:
    out = vault.folder.parent
    provision_site("busi", out, with_site_keys=False)
    site = enrol(vault, "busi")
    assert SigningPolicy.load(site.config.consortium_key) == vault.roster.policies[-1].policy
    toml = FederationConfig.load(out / "server" / "federation.toml")
    assert "busi" in toml.run.sites

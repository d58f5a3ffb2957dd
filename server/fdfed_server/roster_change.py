"""Changes of the roster: drafted by anybody, signed by the signers, put into force together.

A change is a draft in the consortium's folder until enough signers have signed it. Nothing here
needs the coordinator, and the coordinator can do none of it: it holds neither the authority's key
nor a signer's.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from fdfed.errors import CryptoError, InvalidInput
from fdfed.membership.consortium import (
    PolicyStep,
    Signature,
    SigningPolicy,
    lineage_digests,
    policy_statement,
    sign,
    signatures_text,
)
from fdfed.membership.enrolment import EnrolmentRequest
from fdfed.membership.roster import (
    RetiringCertificate,
    Roster,
    SignedRoster,
    SiteIdentity,
    roster_signature,
)
from fdfed_server.certificates import Authority
from fdfed_server.vault import PolicyDraft, Vault


def draft_site(
    vault: Vault,
    request: EnrolmentRequest,
    *,
    days: int,
    fingerprint: str | None = None,
    replace_keys: bool = False,
) -> SiteIdentity:
    """Issues the request's certificate, and drafts a roster that lists the site with it.

    Args:
        days: how long the certificate is valid.
        fingerprint: as the hospital gave it by telephone; needed where no invitation vouches for
            the request and no member's key has signed it.
        replace_keys: the site is listed with other keys, which are lost or must go.

    Raises:
        InvalidInput: if the site is listed already, with other keys.
        CryptoError: if nothing says that the request is the hospital's.
    """
    roster = _base(vault)
    entry = roster.sites.get(request.site)
    renews = entry is not None and entry.fingerprint == request.fingerprint
    if entry is not None and not renews and not replace_keys:
        raise InvalidInput(
            f"{request.site} is in the roster with other keys. If the hospital has made new ones "
            "because the old are lost or known to others, give --replace-keys; else ask it"
        )
    _check_origin(vault, request, fingerprint=fingerprint, is_members=renews)
    authority = Authority.load(vault.folder)
    certificate = authority.issue_site(request.certificate_key(), site=request.site, days=days)
    listed = _identity(request, certificate, retiring=entry if renews else None)
    vault.put_certificate(request, certificate.public_bytes(Encoding.PEM))
    _draft(vault, roster, {**roster.sites, request.site: listed})
    return listed


def draft_removal(vault: Vault, site: str) -> None:
    """Drafts a roster without `site`.

    Raises:
        InvalidInput: if it is not listed.
    """
    roster = _base(vault)
    if site not in roster.sites:
        raise InvalidInput(
            f"{site} is not in the roster; it lists {', '.join(roster.sites) or 'no site'}"
        )
    _draft(vault, roster, {name: e for name, e in roster.sites.items() if name != site})


def end_retirement(vault: Vault, site: str) -> None:
    """Drafts a roster in which the certificate before the site's last renewal is taken no more.

    Raises:
        InvalidInput: if the site is not listed.
    """
    roster = _base(vault)
    if site not in roster.sites:
        raise InvalidInput(f"{site} is not in the roster")
    entry = roster.sites[site].model_copy(update={"retiring": None})
    _draft(vault, roster, {**roster.sites, site: entry})


def draft_policy(vault: Vault, policy: SigningPolicy) -> None:
    """Drafts a change of the signers, which enough of the present ones must sign.

    Raises:
        InvalidInput: if it is the present policy, or nothing has been signed under that yet.
    """
    current = vault.current
    if current is None:
        raise InvalidInput("no roster has been signed yet; have the first one signed before")
    if policy == current.policy:
        raise InvalidInput(f"the signers are {policy.summary} already")
    vault.put_policy_draft(PolicyDraft(base=current.lineage[-1], step=PolicyStep(policy=policy)))


def add_signature(vault: Vault, key: ed25519.Ed25519PrivateKey) -> Signature:
    """Signs what is drafted: first a change of the signers, if there is one, else the roster.

    Raises:
        InvalidInput: if nothing is drafted, or it does not follow what holds.
        CryptoError: if the key is no signer's.
    """
    if (change := vault.policy_draft) is not None:
        policy = vault.roster.policies[-1].policy
        signature = sign(
            policy_statement(change.base, change.step.policy),
            signer=signer_of(policy, key),
            key=key,
        )
        _merge_policy(vault, change, [signature])
        return signature
    draft = _checked_draft(vault)
    name = signer_of(draft.policies[-1].policy, key)
    signature = roster_signature(draft.text, signer=name, key=key)
    merge_signatures(vault, [signature])
    return signature


def merge_signatures(vault: Vault, signatures: Sequence[Signature]) -> None:
    """Adds signatures that were made elsewhere to what is drafted; one of each signer is kept.

    Raises:
        InvalidInput: if nothing is drafted.
    """
    if (change := vault.policy_draft) is not None:
        _merge_policy(vault, change, signatures)
        return
    draft = _checked_draft(vault)
    vault.put_draft(draft, _once(vault.draft_signatures, signatures))


def publish(vault: Vault) -> SignedRoster:
    """The drafted roster, put into force in the consortium's folder.

    Raises:
        InvalidInput: if no roster is drafted.
        CryptoError: if too few signers have signed it, or a signature does not hold.
    """
    if (change := vault.policy_draft) is not None:
        vault.roster.policies[-1].policy.verify(
            policy_statement(change.base, change.step.policy),
            change.step.signatures,
            what="the change of signers",
        )
    draft = _checked_draft(vault)
    signatures = signatures_text(vault.draft_signatures)
    signed = SignedRoster.verify(
        draft.text, signatures, pinned=vault.pinned, source="the drafted roster"
    )
    vault.put_current(signed)
    before = vault.tokens
    tokens = {name: token for name, token in before.items() if name not in draft.sites}
    if tokens != before:
        vault.put_tokens(tokens)
    vault.drop_draft()
    return signed


def signer_of(policy: SigningPolicy, key: ed25519.Ed25519PrivateKey) -> str:
    """Which signer of the policy holds `key`.

    Raises:
        CryptoError: if none does.
    """
    public = key.public_key().public_bytes_raw().hex()
    for name, listed in policy.signers.items():
        if listed == public:
            return name
    raise CryptoError(f"this key is no signer's of the consortium ({policy.summary})")


def _check_origin(
    vault: Vault, request: EnrolmentRequest, *, fingerprint: str | None, is_members: bool
) -> None:
    """Whether the request is the hospital's, and not of whoever carried it."""
    if fingerprint is not None:
        if not hmac.compare_digest(fingerprint.lower(), request.fingerprint):
            raise CryptoError(
                f"the request of {request.site} has the fingerprint {request.fingerprint}, not the "
                "one that was given: these are not the hospital's keys. Find out who exchanged them"
            )
        return
    token = vault.tokens.get(request.site)
    if is_members or (token is not None and request.is_vouched_by(token)):
        return
    raise CryptoError(
        f"no unused invitation vouches for the request of {request.site}. Ask the hospital, by "
        f"telephone, for its fingerprint; if it is {request.fingerprint}, give it as --fingerprint"
    )


def _identity(
    request: EnrolmentRequest, certificate: x509.Certificate, *, retiring: SiteIdentity | None
) -> SiteIdentity:
    old = None
    if retiring is not None:
        old = RetiringCertificate(
            certificate_sha256=retiring.certificate_sha256,
            certificate_serial=retiring.certificate_serial,
        )
    return SiteIdentity(
        node_public_key=request.node_public_key,
        certificate_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        certificate_serial=f"{certificate.serial_number:x}",
        certificate_expires=certificate.not_valid_after_utc,
        hpke_public_key=request.hpke_public_key,
        signing_public_key=request.signing_public_key,
        retiring=old,
    )


def _base(vault: Vault) -> Roster:
    """What a further change is made to: the draft, if there is one, else the current roster."""
    if vault.policy_draft is not None:
        raise InvalidInput(
            "a change of the signers is being signed; finish it (roster sign), or remove "
            "policy.next.json, before the sites are changed"
        )
    return vault.draft or vault.roster


def _draft(vault: Vault, base: Roster, sites: dict[str, SiteIdentity]) -> None:
    current = vault.current
    version = 1 if current is None else current.roster.version + 1
    # Validated anew: two sites with one key must not be found out by the signers' software alone.
    values = base.model_dump() | {"version": version, "sites": sites}
    try:
        vault.put_draft(Roster.model_validate(values))
    except ValueError as err:
        raise InvalidInput(f"such a roster cannot be: {err}") from err


def _checked_draft(vault: Vault) -> Roster:
    draft, current = vault.draft, vault.current
    if draft is None:
        raise InvalidInput("no change is drafted; see `fdfed-server roster --help`")
    expected = 1 if current is None else current.roster.version + 1
    if draft.version != expected:
        raise InvalidInput(
            f"the draft is version {draft.version}, but version {expected} comes next: another "
            "change was put into force meanwhile. Remove roster.next.json, and draft it anew"
        )
    return draft


def _merge_policy(vault: Vault, change: PolicyDraft, more: Sequence[Signature]) -> None:
    step = change.step.model_copy(update={"signatures": _once(change.step.signatures, more)})
    roster = vault.roster
    if change.base != lineage_digests(roster.policies)[-1]:
        raise InvalidInput(
            "the signers have changed since this change of them was drafted; remove "
            "policy.next.json, and draft it anew"
        )
    if len(step.signatures) < roster.policies[-1].policy.threshold:
        vault.put_policy_draft(change.model_copy(update={"step": step}))
        return
    # Enough of the old signers: from here on it is a roster, to be signed by the new ones.
    statement = policy_statement(change.base, step.policy)
    roster.policies[-1].policy.verify(statement, step.signatures, what="the change of signers")
    changed = {"version": roster.version + 1, "policies": (*roster.policies, step)}
    vault.put_draft(roster.model_copy(update=changed))
    vault.put_policy_draft(None)


def _once(first: Sequence[Signature], more: Sequence[Signature]) -> tuple[Signature, ...]:
    return tuple({entry.signer: entry for entry in (*first, *more)}.values())

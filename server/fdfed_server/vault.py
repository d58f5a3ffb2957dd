"""The consortium's folder: the authority, the roster that holds, and the draft of the next one.

    ca.pem, ca.key                       the authority that issues certificates
    consortium.pub                       the first signing policy, as every party has pinned it
    consortium.key                       the key of the only signer, if there is but one
    roster.json, roster.sig              the roster that holds
    roster.next.json, roster.next.sig    its next version, and who has signed it so far
    policy.next.json                     a change of the signers, and who has signed that so far
    invitations.json                     tokens of the enrolment packs that are not used yet
    relays.json                          by what the coordinator knows who may leave a request
    certificates/SITE.pem                what was issued, also for sites that are not listed yet
    server-hpke.pub                      goes into every enrolment pack

None of it is needed to run a federation, and none of it belongs to the coordinator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ed25519
from pydantic import TypeAdapter, ValidationError

from fdfed.config import Frozen, SiteName
from fdfed.errors import InvalidInput
from fdfed.files.private_file import line, replace_private
from fdfed.membership.consortium import (
    PolicyStep,
    Signature,
    SigningPolicy,
    parse_signatures,
    signatures_text,
)
from fdfed.membership.enrolment import EnrolmentRequest, Invitation, Token
from fdfed.membership.roster import Roster, SignedRoster
from fdfed.membership.signing_key import read_signing_key

SIGNER_KEY: Final = "consortium.key"
_TOKENS: Final = TypeAdapter(dict[SiteName, Token])


class PolicyDraft(Frozen):
    """A change of the signers that is not signed by enough of the present ones yet."""

    base: str
    """Digest of the lineage upon which it follows."""
    step: PolicyStep


class Vault:
    """Reads and writes the consortium's folder. What it calls current has been verified."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            InvalidInput: if `folder` holds no consortium.
        """
        self.folder = folder
        self.pinned = SigningPolicy.load(folder / "consortium.pub")

    @property
    def current(self) -> SignedRoster | None:
        """The roster that holds; None before the first one is signed.

        Raises:
            CryptoError: if it does not verify.
        """
        path = self.folder / "roster.json"
        if not path.exists():
            return None
        return SignedRoster.load(path, public_key=self.folder / "consortium.pub")

    def put_current(self, roster: SignedRoster) -> None:
        """Puts a roster into force in this folder."""
        replace_private(self.folder / "roster.sig", roster.signatures)
        replace_private(self.folder / "roster.json", roster.text)

    @property
    def roster(self) -> Roster:
        """The content of the current roster; before the first, an empty one under the policy."""
        current = self.current
        if current is None:
            return Roster(policies=(PolicyStep(policy=self.pinned),))
        return current.roster

    @property
    def draft(self) -> Roster | None:
        """The next roster, if one is being signed."""
        path = self.folder / "roster.next.json"
        try:
            return Roster.parse_text(path.read_bytes(), source=path)
        except FileNotFoundError:
            return None

    @property
    def draft_signatures(self) -> tuple[Signature, ...]:
        """Who has signed the draft so far; not verified."""
        path = self.folder / "roster.next.sig"
        try:
            return parse_signatures(path.read_bytes(), source=str(path))
        except FileNotFoundError:
            return ()

    def put_draft(self, draft: Roster, signatures: Sequence[Signature] = ()) -> None:
        """Keeps the next roster; without signatures given, it has none any more."""
        replace_private(self.folder / "roster.next.json", draft.text)
        replace_private(self.folder / "roster.next.sig", signatures_text(signatures))

    def drop_draft(self) -> None:
        """Forgets the next roster."""
        for name in ("roster.next.json", "roster.next.sig"):
            (self.folder / name).unlink(missing_ok=True)

    @property
    def policy_draft(self) -> PolicyDraft | None:
        """The change of signers that is being signed, if there is one."""
        path = self.folder / "policy.next.json"
        try:
            return PolicyDraft.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as err:
            raise InvalidInput(
                f"{path} cannot be read; remove it and begin the change anew"
            ) from err

    def put_policy_draft(self, draft: PolicyDraft | None) -> None:
        """Keeps a change of signers, or forgets it."""
        path = self.folder / "policy.next.json"
        if draft is None:
            path.unlink(missing_ok=True)
        else:
            replace_private(path, line(draft.model_dump_json(indent=2)))

    @property
    def tokens(self) -> dict[str, str]:
        """Tokens of the invitations that were not used yet, by site."""
        path = self.folder / "invitations.json"
        try:
            return dict(_TOKENS.validate_json(path.read_bytes()))
        except FileNotFoundError:
            return {}
        except ValidationError as err:
            raise InvalidInput(
                f"{path} cannot be read; restore it, or compare fingerprints (--fingerprint)"
            ) from err

    def put_tokens(self, tokens: Mapping[str, str]) -> None:
        """Keeps these tokens and no others."""
        replace_private(self.folder / "invitations.json", _TOKENS.dump_json(dict(tokens)))

    @property
    def relays(self) -> dict[str, str]:
        """SHA-256 of each invited site's relay key, also after it has joined: it may renew."""
        path = self.folder / "relays.json"
        try:
            return dict(_TOKENS.validate_json(path.read_bytes()))
        except FileNotFoundError:
            return {}
        except ValidationError as err:
            raise InvalidInput(f"{path} cannot be read; restore it from a backup") from err

    def put_invitation(self, invitation: Invitation) -> None:
        """Remembers an invitation: its token, and what the coordinator may know of it."""
        self.put_tokens({**self.tokens, invitation.site: invitation.token})
        relay = hashlib.sha256(invitation.relay_key.encode()).hexdigest()
        relays = {**self.relays, invitation.site: relay}
        replace_private(self.folder / "relays.json", _TOKENS.dump_json(relays))

    def certificate_of(self, site: str) -> bytes | None:
        """The certificate issued last for `site`, in PEM."""
        try:
            return (self.folder / "certificates" / f"{site}.pem").read_bytes()
        except FileNotFoundError:
            return None

    def put_certificate(self, request: EnrolmentRequest, pem: bytes) -> None:
        """Keeps a certificate, and for which request it was issued."""
        folder = self.folder / "certificates"
        replace_private(folder / f"{request.site}.pem", pem)
        replace_private(folder / f"{request.site}.request", line(request.signature))

    def is_answered(self, request: EnrolmentRequest) -> bool:
        """Whether the last certificate of the site was issued for this very request."""
        try:
            path = self.folder / "certificates" / f"{request.site}.request"
            return path.read_text().strip() == request.signature
        except FileNotFoundError:
            return False


def read_signer_key(path: Path) -> ed25519.Ed25519PrivateKey:
    """The signer's key in the file `path`.

    Raises:
        InvalidInput: if the file is missing.
        CryptoError: if it holds no key.
    """
    return read_signing_key(path, whence="a roster can only be signed where a signer's key is")

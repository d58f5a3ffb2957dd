"""How a hospital joins: invitation, request and answer; what both sides must agree on.

The consortium invites with a pack that holds public keys and a one-time token. The site makes its
keys, and asks with a request that its own signing key signs and the token vouches for. The answer
carries a certificate and the signed roster; the site verifies both against the pinned policy. So
whoever carries request and answer, the coordinator included, can lose them and nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID
from pydantic import Field, ValidationError

from fdfed.config import Frozen, SiteName
from fdfed.errors import CryptoError, InvalidInput
from fdfed.membership.consortium import SignatureHex, SigningPolicy
from fdfed.membership.roster import Digest, SignedRoster, site_fingerprint

MAX_REQUEST: Final = 64 << 10
"""Characters of a request; one with hybrid keys has about 3,000."""
MAX_ANSWER: Final = 16 << 20
DESK_PATH: Final = "/v1/enrolment/"
INVITATION_HEADER: Final = "x-fdfed-invitation"
"""Where an invited site leaves its request at the coordinator, and what it shows there."""
_REQUEST_LABEL: Final = b"fdfed enrolment request 1\n"
_RELAY_LABEL: Final = b"fdfed enrolment relay 1"
_TOKEN_LABEL: Final = b"fdfed enrolment token 1\n"

Token = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Invitation(Frozen):
    """What is secret in an enrolment pack: it serves one request of one site."""

    site: SiteName
    token: Token

    @property
    def relay_key(self) -> str:
        """What whoever holds the invitation shows the coordinator, to leave a request there. It
        follows from the token and does not give it away."""
        return hmac.new(bytes.fromhex(self.token), _RELAY_LABEL, hashlib.sha256).hexdigest()


class EnrolmentRequest(Frozen):
    """Site → consortium: these are my public keys; certify and list them."""

    format: Literal[1] = 1
    site: SiteName
    csr: Annotated[str, Field(max_length=8192)]
    """Certificate signing request in PEM, for mutual TLS."""
    node_public_key: Annotated[str, Field(max_length=1024)]
    hpke_public_key: Annotated[str, Field(max_length=4096)]
    signing_public_key: Digest
    vouched: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """HMAC-SHA-256 of the keys under the invitation's token; empty when a member renews."""
    signature: SignatureHex
    """By the signing key, over all of the above."""

    @classmethod
    def make(
        cls,
        *,
        site: str,
        csr: str,
        node_public_key: str,
        hpke_public_key: str,
        signing_key: ed25519.Ed25519PrivateKey,
        token: str | None,
    ) -> EnrolmentRequest:
        """The request of a site that holds `signing_key`.

        Args:
            token: from the invitation; None for the renewal of a certificate.
        """
        keys = {
            "site": site,
            "csr": csr,
            "node_public_key": node_public_key,
            "hpke_public_key": hpke_public_key,
            "signing_public_key": signing_key.public_key().public_bytes_raw().hex(),
        }
        vouched = "" if token is None else _voucher(keys, token)
        signature = signing_key.sign(_REQUEST_LABEL + _canonical({**keys, "vouched": vouched}))
        return cls.model_validate({**keys, "vouched": vouched, "signature": signature.hex()})

    @classmethod
    def parse(cls, text: bytes, *, source: str) -> EnrolmentRequest:
        """The request in `text`, whose own signatures hold; that says not yet who made it.

        Raises:
            InvalidInput: if it is not of the agreed form.
            CryptoError: if a signature in it does not verify.
        """
        if len(text) > MAX_REQUEST:
            raise InvalidInput(f"{source} has {len(text)} bytes; at most {MAX_REQUEST} are read")
        try:
            request = cls.model_validate_json(text)
        except ValidationError as err:
            raise InvalidInput(
                f"{source} is no enrolment request of this version; `fdfed-client enrol` makes one"
            ) from err
        request._check_signature(source)
        request.certificate_key()
        return request

    @property
    def fingerprint(self) -> str:
        """The fingerprint that the roster's entry will have; compare it over the telephone."""
        return site_fingerprint(
            node_public_key=self.node_public_key,
            hpke_public_key=self.hpke_public_key,
            signing_public_key=self.signing_public_key,
        )

    def is_vouched_by(self, token: str) -> bool:
        """Whether whoever made this request held the invitation's token."""
        return hmac.compare_digest(self.vouched, _voucher(self._keys(), token))

    def certificate_key(self) -> ec.EllipticCurvePublicKey:
        """The key to certify, whose private half signed the signing request.

        Raises:
            CryptoError: if that signature does not hold, the key is not elliptic, or the name in
                it is not the site's.
        """
        try:
            csr = x509.load_pem_x509_csr(self.csr.encode())
            key, valid = csr.public_key(), csr.is_signature_valid
            names = csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as err:
            raise CryptoError(f"the signing request of {self.site} cannot be read") from err
        if not valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise CryptoError(f"the signing request of {self.site} is not signed by its own key")
        if [name.value for name in names] != [self.site]:
            raise CryptoError(f"the signing request of {self.site} asks for another name")
        return key

    def _check_signature(self, source: str) -> None:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.signing_public_key))
        statement = _REQUEST_LABEL + _canonical({**self._keys(), "vouched": self.vouched})
        try:
            key.verify(bytes.fromhex(self.signature), statement)
        except InvalidSignature as err:
            raise CryptoError(
                f"{source} was altered after {self.site} signed it; have it sent again, by another "
                "way"
            ) from err

    def _keys(self) -> dict[str, str]:
        names = ("site", "csr", "node_public_key", "hpke_public_key", "signing_public_key")
        return {name: getattr(self, name) for name in names}


class EnrolmentAnswer(Frozen):
    """Consortium → site: the certificate, and the signed roster that lists it."""

    format: Literal[1] = 1
    site: SiteName
    certificate: Annotated[str, Field(max_length=8192)]
    """PEM."""
    roster: str
    signatures: str

    @classmethod
    def parse(cls, text: bytes, *, source: str) -> EnrolmentAnswer:
        """The answer in `text`; nothing in it is verified yet.

        Raises:
            InvalidInput: if it is not of the agreed form.
        """
        if len(text) > MAX_ANSWER:
            raise InvalidInput(f"{source} has {len(text)} bytes; at most {MAX_ANSWER} are read")
        try:
            return cls.model_validate_json(text)
        except ValidationError as err:
            raise InvalidInput(f"{source} is no answer to an enrolment request") from err

    def verify(self, own: OwnKeys, *, pinned: SigningPolicy) -> SignedRoster:
        """The roster, if the consortium signed it and it lists this site's very keys.

        Raises:
            InvalidInput: if the roster is not of the agreed form.
            CryptoError: if anything does not verify or belongs to another site.
        """
        roster = SignedRoster.verify(
            self.roster.encode(), self.signatures.encode(), pinned=pinned, source="the answer"
        )
        entry = roster.roster.sites.get(own.site)
        if self.site != own.site or entry is None or entry.fingerprint != own.fingerprint:
            raise CryptoError(
                f"the answer is for {self.site}, or for other keys than those of {own.site} here; "
                "ask the consortium for the answer to this site's last request"
            )
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate.encode())
            same_key = certificate.public_key() == own.certificate_key
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as err:
            raise CryptoError("the answer holds no certificate that can be read") from err
        sha256 = certificate.fingerprint(hashes.SHA256()).hex()
        serial = f"{certificate.serial_number:x}"
        if not same_key or (sha256, serial) != (entry.certificate_sha256, entry.certificate_serial):
            raise CryptoError(
                "the answer's certificate is not the one in the signed roster, or not for this "
                "site's key; it was exchanged on the way"
            )
        return roster


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnKeys:
    """What a site knows itself when an answer comes."""

    site: str
    fingerprint: str
    certificate_key: ec.EllipticCurvePublicKey


def _voucher(keys: dict[str, str], token: str) -> str:
    message = _TOKEN_LABEL + _canonical(keys)
    return hmac.new(bytes.fromhex(token), message, hashlib.sha256).hexdigest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

"""Who may take part: the roster, which the consortium signs and every party verifies."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from fdfed.config import Frozen, SiteName, parse
from fdfed.errors import CryptoError, InvalidInput
from fdfed.exchange.hpke import HpkePublicKey
from fdfed.files import strict_json
from fdfed.membership.consortium import (
    PolicyStep,
    Signature,
    SigningPolicy,
    lineage_digests,
    parse_signatures,
    sign,
    signatures_text,
    verify_lineage,
)

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_ROSTER_LABEL: Final = b"fdfed roster 1\n"
_MAX_POLICIES: Final = 64
MAX_ROSTER: Final = 8 << 20
"""Bytes of a roster's text; one of a thousand sites has about 2.5 million."""


class RetiringCertificate(Frozen):
    """A certificate that has been renewed, and is taken beside the new one until it expires."""

    certificate_sha256: Digest
    certificate_serial: Annotated[str, Field(pattern=r"^[0-9a-f]+$")]


class SiteIdentity(Frozen):
    """How the others know one site: by key and certificate, never by what it claims."""

    node_public_key: str
    """OpenSSH form of the elliptic-curve key with which the site signs each Flower request."""
    certificate_sha256: Digest
    """Fingerprint of the certificate that the site shows to the exchange hub."""
    certificate_serial: Annotated[str, Field(pattern=r"^[0-9a-f]+$")]
    hpke_public_key: str
    """The key, in the text form of `HpkePublicKey`, to which other sites seal what is for this
    site alone."""
    signing_public_key: Digest
    """Ed25519 key, in hexadecimal, with which the site signs what it seals for others."""
    certificate_expires: AwareDatetime | None = None
    """Until when the certificate is valid, so that its end can be announced."""
    retiring: RetiringCertificate | None = None
    """The certificate before the last renewal: no stream is cut while the new one travels."""

    @field_validator("hpke_public_key")
    @classmethod
    def _is_hpke(cls, text: str) -> str:
        try:
            HpkePublicKey.parse(text)
        except CryptoError as err:
            raise ValueError(f"is not an HPKE public key: {err}") from err
        return text

    @property
    def hpke_key(self) -> HpkePublicKey:
        """`hpke_public_key`, read."""
        return HpkePublicKey.parse(self.hpke_public_key)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the site's lasting keys, in hexadecimal: what two people compare over the
        telephone before they approve each other. A renewed certificate does not change it."""
        return site_fingerprint(
            node_public_key=self.node_public_key,
            hpke_public_key=self.hpke_public_key,
            signing_public_key=self.signing_public_key,
        )

    def has_certificate(self, *, sha256: str, serial: str) -> bool:
        """Whether a certificate is the site's: the current one, or the one that it replaced."""
        known = [(self.certificate_sha256, self.certificate_serial)]
        if self.retiring is not None:
            known.append((self.retiring.certificate_sha256, self.retiring.certificate_serial))
        return (sha256, serial) in known

    @field_validator("node_public_key")
    @classmethod
    def _is_elliptic(cls, text: str) -> str:
        try:
            key = load_ssh_public_key(text.encode())
        # NotImplementedError: of a compressed point
        except (ValueError, UnsupportedAlgorithm, NotImplementedError) as err:
            raise ValueError("is not an OpenSSH public key") from err
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("is not an elliptic-curve key (ecdsa-sha2-nistp256 or -nistp384)")
        return text


class Roster(Frozen):
    """Who may take part. A site that is not listed is refused on both public ports."""

    sites: dict[SiteName, SiteIdentity] = Field(default_factory=dict)
    version: int = Field(default=1, ge=1, le=10**9)
    """Counts the changes; whoever holds a roster takes none of a lower version."""
    policies: tuple[PolicyStep, ...] = Field(default=(), max_length=_MAX_POLICIES)
    """Whose signatures the roster needs: the first policy, and each change of it since."""
    plan_key: Digest | None = None
    """Ed25519 key, in hexadecimal, with which the coordinator signs run plans."""

    @model_validator(mode="after")
    def _check(self) -> Roster:
        for kind in ("node_public_key", "hpke_public_key", "signing_public_key"):
            seen: dict[str, str] = {}
            for name, site in self.sites.items():
                twin = seen.setdefault(getattr(site, kind), name)
                if twin != name:
                    noun = kind.split("_", maxsplit=1)[0]
                    raise ValueError(
                        f"{twin} and {name} have one {noun} key; each site needs its own"
                    )
        return self

    @property
    def node_keys(self) -> dict[str, str]:
        """Site name → OpenSSH public key of its Flower node."""
        return {name: site.node_public_key for name, site in self.sites.items()}

    @property
    def text(self) -> bytes:
        """The content of `roster.json`: what signers sign."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    @classmethod
    def load(cls, path: Path) -> Roster:
        """The roster in the file `path`.

        Raises:
            InvalidInput: if the file is missing, is not JSON, lists a site in a wrong way, or was
                made before sites had the keys of today.
        """
        try:
            return cls.parse_text(path.read_bytes(), source=path)
        except FileNotFoundError as err:
            raise InvalidInput(
                f"{path} does not exist; `fdfed-server provision` writes it, and roster in "
                "federation.toml or site.toml says where it is"
            ) from err

    @classmethod
    def parse_text(cls, text: bytes, *, source: Path) -> Roster:
        """The roster in `text`, which was read from `source`.

        Raises:
            InvalidInput: as `load` does.
        """
        values = strict_json.loads(text, source=str(source))
        _check_age(values, source)
        return parse(cls, values, source=str(source))


@dataclass(frozen=True, slots=True)
class SignedRoster:
    """A roster whose signatures by the consortium have been verified."""

    roster: Roster
    digest: str
    """SHA-256 of the signed text, in hexadecimal: what sites name when they mean this roster."""
    text: bytes
    signatures: bytes
    """`roster.json` and `roster.sig` as they were signed, to be handed on."""

    @property
    def policy(self) -> SigningPolicy:
        """Under which the next change must be signed."""
        return self.roster.policies[-1].policy

    @property
    def lineage(self) -> tuple[str, ...]:
        """The digests of its policies with their past, by which one lineage is told from a fork."""
        return lineage_digests(self.roster.policies)

    @classmethod
    def load(cls, path: Path, *, public_key: Path) -> SignedRoster:
        """The roster in `path`, with its signatures beside it in `roster.sig`.

        Args:
            public_key: the file with the consortium's policy, pinned at provisioning. Its keys are
                not the coordinator's: a coordinator cannot enrol anybody.

        Raises:
            InvalidInput: if a file is missing or the roster is not of the agreed form.
            CryptoError: if there are no signatures, or too few that verify.
        """
        signature_path = path.with_suffix(".sig")
        pinned, text = SigningPolicy.load(public_key), _bytes_of(path)
        try:
            signatures = signature_path.read_bytes()
        except OSError as err:
            raise CryptoError(
                f"{path} is not signed: {signature_path} cannot be read ({err.strerror}). Ask "
                "whoever keeps the consortium's key for the roster and its signature; an unsigned "
                "one is never used"
            ) from err
        return cls.verify(text, signatures, pinned=pinned, source=str(path))

    @classmethod
    def verify(
        cls, text: bytes, signatures: bytes, *, pinned: SigningPolicy, source: str
    ) -> SignedRoster:
        """The roster in `text`, which came from `source`, if it is signed as its policy asks, and
        its policy follows from the pinned one.

        Raises:
            InvalidInput: if the text is not of the agreed form.
            CryptoError: if a signature is missing, foreign, given twice or does not verify.
        """
        if len(text) > MAX_ROSTER:
            raise InvalidInput(f"{source} has {len(text)} bytes; at most {MAX_ROSTER} are read")
        # Of a text that nobody vouches for yet, only what says who must is looked at.
        policies = _policies_of(text, source)
        verify_lineage(policies, pinned, what=source)
        found = parse_signatures(signatures, source=f"the signature file of {source}")
        policies[-1].policy.verify(_ROSTER_LABEL + text, found, what=source)
        roster = Roster.parse_text(text, source=Path(source))
        return cls(roster, hashlib.sha256(text).hexdigest(), text, signatures)


def site_fingerprint(*, node_public_key: str, hpke_public_key: str, signing_public_key: str) -> str:
    """SHA-256, in hexadecimal, of the three keys that a site keeps for as long as it takes part."""
    keys = {"node": node_public_key, "hpke": hpke_public_key, "signing": signing_public_key}
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()


def roster_signature(text: bytes, *, signer: str, key: ed25519.Ed25519PrivateKey) -> Signature:
    """`signer`'s signature of the roster `text`."""
    return sign(_ROSTER_LABEL + text, signer=signer, key=key)


def sign_roster(
    text: bytes, key: ed25519.Ed25519PrivateKey, *, signer: str = "consortium"
) -> bytes:
    """The content of `roster.sig` for the roster `text` of a consortium with one signer."""
    return signatures_text([roster_signature(text, signer=signer, key=key)])


class _Lineage(BaseModel):
    """The policies of a roster, and whatever else there is unread."""

    model_config = ConfigDict(extra="ignore")

    policies: tuple[PolicyStep, ...] = Field(min_length=1, max_length=_MAX_POLICIES)


def _policies_of(text: bytes, source: str) -> tuple[PolicyStep, ...]:
    values = strict_json.loads(text, source=source)
    if isinstance(values, dict) and not values.get("policies"):
        raise InvalidInput(
            f"{source} does not say whose signatures it needs (policies): an earlier version made "
            "it. Provision the consortium anew with `fdfed-server provision`, into an empty folder"
        )
    return parse(_Lineage, values, source=source).policies


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise InvalidInput(
            f"{path} cannot be read ({err.strerror}). `fdfed-server provision` makes it; a folder "
            "of an earlier version lacks it: provision the consortium anew, into an empty folder"
        ) from err


def _check_age(values: Any, path: Path) -> None:
    sites = values.get("sites") if isinstance(values, dict) else None
    entries = sites.items() if isinstance(sites, dict) else ()
    keys = ("hpke_public_key", "signing_public_key")
    old = [name for name, e in entries if isinstance(e, dict) and any(k not in e for k in keys)]
    if old:
        raise InvalidInput(
            f"{path} lacks {' or '.join(keys)} for {', '.join(old)}: an earlier version made it. "
            "Provision the consortium anew with `fdfed-server provision`, into an empty folder, "
            "and hand out the folders again"
        )

"""Who may take part: the roster, which the consortium signs and every party verifies."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from pydantic import Field, field_validator, model_validator

from fdfed.config import Frozen, SiteName, parse
from fdfed.errors import CryptoError, InvalidInput
from fdfed.exchange.hpke import HpkePublicKey

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_ROSTER_LABEL: Final = b"fdfed roster 1\n"


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
        """SHA-256 of all of the site's keys, in hexadecimal: what two people compare over the
        telephone before they approve each other."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @field_validator("node_public_key")
    @classmethod
    def _is_elliptic(cls, text: str) -> str:
        try:
            key = load_ssh_public_key(text.encode())
        except (ValueError, UnsupportedAlgorithm) as err:
            raise ValueError("is not an OpenSSH public key") from err
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("is not an elliptic-curve key (ecdsa-sha2-nistp256 or -nistp384)")
        return text


class Roster(Frozen):
    """Who may take part. A site that is not listed is refused on both public ports."""

    sites: dict[SiteName, SiteIdentity] = Field(default_factory=dict)
    version: int = Field(default=1, ge=1)
    """Counts the changes; whoever holds a roster takes none of a lower version."""

    @model_validator(mode="after")
    def _check(self) -> Roster:
        seen: dict[str, str] = {}
        for name, site in self.sites.items():
            twin = seen.setdefault(site.node_public_key, name)
            if twin != name:
                raise ValueError(f"{twin} and {name} have one node key; each site needs its own")
        return self

    @property
    def node_keys(self) -> dict[str, str]:
        """Site name → OpenSSH public key of its Flower node."""
        return {name: site.node_public_key for name, site in self.sites.items()}

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
        try:
            values = json.loads(text)
        except ValueError as err:
            raise InvalidInput(f"{source} is not valid JSON: {err}") from err
        _check_age(values, source)
        return parse(cls, values, source=str(source))


@dataclass(frozen=True, slots=True)
class SignedRoster:
    """A roster whose signature by the consortium's key has been verified."""

    roster: Roster
    digest: str
    """SHA-256 of the signed text, in hexadecimal: what sites name when they mean this roster."""

    @classmethod
    def load(cls, path: Path, *, public_key: Path) -> SignedRoster:
        """The roster in `path`, with its signature beside it in `roster.sig`.

        Args:
            public_key: the file with the consortium's key, pinned at provisioning. It is not the
                coordinator's: a coordinator cannot enrol anybody.

        Raises:
            InvalidInput: if a file is missing or the roster is not of the agreed form.
            CryptoError: if there is no signature, or it does not verify.
        """
        signature_path = path.with_suffix(".sig")
        text, key = _bytes_of(path), _consortium_key(public_key)
        try:
            signature = bytes.fromhex(signature_path.read_text(encoding="ascii"))
        except FileNotFoundError as err:
            raise CryptoError(
                f"{path} is not signed: {signature_path} does not exist. Ask whoever keeps the "
                "consortium's key for the roster and its signature; an unsigned one is never used"
            ) from err
        except ValueError as err:
            raise CryptoError(f"{signature_path} holds no signature in hexadecimal") from err
        try:
            key.verify(signature, _ROSTER_LABEL + text)
        except InvalidSignature as err:
            raise CryptoError(
                f"the signature of {path} is not by the consortium's key in {public_key}, or the "
                "roster was altered since: a site added, a key exchanged. Fetch both files anew "
                "from whoever keeps that key, and find out who changed them"
            ) from err
        roster = Roster.parse_text(text, source=path)
        return cls(roster, hashlib.sha256(text).hexdigest())


def sign_roster(text: bytes, key: ed25519.Ed25519PrivateKey) -> bytes:
    """The content of `roster.sig` for the roster `text`."""
    return key.sign(_ROSTER_LABEL + text).hex().encode() + b"\n"


def _consortium_key(path: Path) -> ed25519.Ed25519PublicKey:
    try:
        return ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(_bytes_of(path).decode()))
    except ValueError as err:
        raise CryptoError(f"{path} holds no Ed25519 public key in hexadecimal") from err


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

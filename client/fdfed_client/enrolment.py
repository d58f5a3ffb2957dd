"""How this hospital joins: its keys are made here, and only their public halves leave.

The pack that the consortium gave becomes the site's folder: keys, request, certificate and roster
are written beside `site.toml`. Every step can be repeated; nothing that is there is made anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from fdfed.errors import CryptoError, InvalidInput
from fdfed.exchange import HpkePrivateKey, HpkePublicKey
from fdfed.files.private_file import line, replace_private, write_private
from fdfed.membership.consortium import SigningPolicy
from fdfed.membership.enrolment import EnrolmentAnswer, EnrolmentRequest, Invitation, OwnKeys
from fdfed.membership.roster import Roster, SignedRoster, site_fingerprint
from fdfed.membership.signing_key import write_signing_key
from fdfed_client.config import SiteConfig
from fdfed_client.flower.fleet import load_node_key
from fdfed_client.membership import read_site_key

REQUEST: Final = "request.json"
ANSWER: Final = "answer.json"
INVITATION: Final = "invitation.json"


@dataclass(frozen=True, slots=True)
class SiteFolder:
    """An enrolment pack, and what it becomes."""

    folder: Path
    config: SiteConfig

    @classmethod
    def open(cls, folder: Path) -> SiteFolder:
        """The pack in `folder`.

        Raises:
            InvalidInput: if it is none.
        """
        if not (folder / "site.toml").is_file():
            raise InvalidInput(
                f"{folder} is no enrolment pack: site.toml is missing. Give the folder that the "
                "consortium sent, unpacked"
            )
        return cls(folder, SiteConfig.load(folder / "site.toml"))

    @property
    def is_enrolled(self) -> bool:
        """Whether there is a certificate: the site may take part, until it expires."""
        return self.config.certificate.exists()

    def request(self, *, renewal: bool = False) -> EnrolmentRequest:
        """The request for a certificate, with keys that are made now where there are none.

        Args:
            renewal: ask for another certificate for the keys that are there.

        Raises:
            InvalidInput: if a renewal is asked for and there are no keys, or the pack is not whole.
            CryptoError: if a key that is there cannot be read.
        """
        path = self.folder / REQUEST
        if renewal and not self.is_enrolled:
            raise InvalidInput(
                f"{self.config.site} has no certificate to renew; enrol it first, without --renew"
            )
        if path.exists() and not renewal:
            return EnrolmentRequest.parse(path.read_bytes(), source=str(path))
        token = None if renewal else self._invitation().token
        self._make_missing_keys()
        request = self._signed_request(token)
        replace_private(path, line(request.model_dump_json(indent=2)))
        return request

    def complete(self, answer: bytes, *, source: str) -> SignedRoster:
        """Installs certificate and roster from `answer`, once all of it has been verified.

        Raises:
            InvalidInput: if it is no answer.
            CryptoError: if the consortium did not sign it, or it is not for this site's keys.
        """
        config, pinned = self.config, SigningPolicy.load(self.config.consortium_key)
        found = EnrolmentAnswer.parse(answer, source=source)
        roster = found.verify(self._own_keys(), pinned=pinned)
        newer = self._roster_that_is_newer(roster)
        if newer is not None:
            _check_lists(newer.roster, config.site, found.certificate)
        replace_private(config.certificate, found.certificate.encode())
        if newer is None:
            replace_private(config.roster.with_suffix(".sig"), roster.signatures)
            replace_private(config.roster, roster.text)
        for name in (REQUEST, ANSWER):
            (self.folder / name).unlink(missing_ok=True)
        return newer or roster

    def is_news(self, answer: bytes) -> bool:
        """Whether an answer holds another certificate than the one that is installed."""
        found = EnrolmentAnswer.parse(answer, source="the answer")
        installed = self.config.certificate
        return not installed.exists() or installed.read_bytes() != found.certificate.encode()

    @property
    def relay_key(self) -> str:
        """What shows the coordinator that this site was invited to leave a request there."""
        return self._invitation().relay_key

    def _invitation(self) -> Invitation:
        path = self.folder / INVITATION
        try:
            found = Invitation.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as err:
            raise InvalidInput(
                f"{path} is missing or cannot be read; ask the consortium for the enrolment pack "
                f"of {self.config.site} again"
            ) from err
        if found.site != self.config.site:
            raise InvalidInput(
                f"{path} invites {found.site}, but site.toml belongs to {self.config.site}; use "
                "the files of one pack"
            )
        return found

    def _make_missing_keys(self) -> None:
        config = self.config
        if not config.key.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_private(config.key, pem)
        if not config.node_key.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            openssh = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
            write_private(config.node_key, openssh)
        if not config.hpke_key.exists():
            suite = HpkePublicKey.read(config.server_hpke_key).suite
            write_private(config.hpke_key, line(HpkePrivateKey.generate(suite).text))
        if not config.signing_key.exists():
            write_signing_key(config.signing_key, ed25519.Ed25519PrivateKey.generate())

    def _signed_request(self, token: str | None) -> EnrolmentRequest:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.config.site)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        csr = builder.sign(self._certificate_key(), hashes.SHA256())
        return EnrolmentRequest.make(
            site=self.config.site,
            csr=csr.public_bytes(Encoding.PEM).decode(),
            node_public_key=self._node_public_key(),
            hpke_public_key=HpkePrivateKey.read(self.config.hpke_key).public.text,
            signing_key=read_site_key(self.config.signing_key),
            token=token,
        )

    def _certificate_key(self) -> ec.EllipticCurvePrivateKey:
        path = self.config.key
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as err:
            raise CryptoError(f"{path} cannot be read as a key; restore it from a backup") from err
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CryptoError(f"{path} holds no elliptic-curve key; restore it from a backup")
        return key

    def _node_public_key(self) -> str:
        key = load_node_key(self.config.node_key.read_bytes()).public_key()
        return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()

    def _own_keys(self) -> OwnKeys:
        signing_key = read_site_key(self.config.signing_key)
        return OwnKeys(
            site=self.config.site,
            fingerprint=site_fingerprint(
                node_public_key=self._node_public_key(),
                hpke_public_key=HpkePrivateKey.read(self.config.hpke_key).public.text,
                signing_public_key=signing_key.public_key().public_bytes_raw().hex(),
            ),
            certificate_key=self._certificate_key().public_key(),
        )

    def _roster_that_is_newer(self, roster: SignedRoster) -> SignedRoster | None:
        path = self.config.roster
        if not path.exists():
            return None
        try:
            held = SignedRoster.load(path, public_key=self.config.consortium_key)
        except CryptoError:
            return None
        return held if held.roster.version > roster.roster.version else None


def _check_lists(roster: Roster, site: str, certificate: str) -> None:
    loaded = x509.load_pem_x509_certificate(certificate.encode())
    entry = roster.sites.get(site)
    sha256, serial = loaded.fingerprint(hashes.SHA256()).hex(), f"{loaded.serial_number:x}"
    if entry is None or not entry.has_certificate(sha256=sha256, serial=serial):
        raise CryptoError(
            f"the answer is older than the roster of version {roster.version} that is here, which "
            "does not list its certificate; ask the consortium for the newest answer"
        )

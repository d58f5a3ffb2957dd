"""The consortium's certificate authority: X.509 certificates for the coordinator and the sites."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fdfed.errors import CryptoError, InvalidInput

_BACKDATE: Final = dt.timedelta(hours=1)
"""Certificates are valid from a little before now, for clocks that are behind."""


class Authority:
    """A key and the self-signed certificate that every party of the consortium trusts.

    It signs the certificates of parties only, never another authority (path length 0). Keys are
    elliptic: P-384 for the authority, P-256 for the parties.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self.key = key
        self.certificate = certificate

    @classmethod
    def create(cls, *, days: int) -> Authority:
        """A new authority with a new key, valid for `days`."""
        key = ec.generate_private_key(ec.SECP384R1())
        name = _name("fdfed consortium")
        builder = _builder(name, name, key.public_key(), key.public_key(), _validity(days))
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .sign(key, hashes.SHA384())
        )
        return cls(key, certificate)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """The authority in `ca.pem` and `ca.key` of `folder`.

        Raises:
            InvalidInput: if a file is missing.
            CryptoError: if one cannot be read, or they do not belong together.
        """
        try:
            certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
            key = load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        except FileNotFoundError as err:
            raise InvalidInput(
                f"{err.filename} does not exist; a site can only be added where the consortium's "
                "folder is, which is kept offline"
            ) from err
        except (ValueError, TypeError, x509.InvalidVersion) as err:
            raise CryptoError(f"ca.pem or ca.key in {folder} cannot be read: {err}") from err
        if (
            not isinstance(key, ec.EllipticCurvePrivateKey)
            or key.public_key() != certificate.public_key()
        ):
            raise CryptoError(
                f"ca.key in {folder} is not the key of ca.pem; restore both from one backup"
            )
        return cls(key, certificate)

    def issue_server(
        self, public_key: ec.EllipticCurvePublicKey, *, hosts: Sequence[str], days: int
    ) -> x509.Certificate:
        """A certificate with which the coordinator answers under each of `hosts`."""
        names = x509.SubjectAlternativeName([_alternative_name(host) for host in hosts])
        return self._issue(hosts[0], public_key, ExtendedKeyUsageOID.SERVER_AUTH, days, names)

    def issue_site(
        self, public_key: ec.EllipticCurvePublicKey, *, site: str, days: int
    ) -> x509.Certificate:
        """A certificate with which the site connects; its common name is the site's name."""
        return self._issue(site, public_key, ExtendedKeyUsageOID.CLIENT_AUTH, days)

    def _issue(
        self,
        common_name: str,
        public_key: ec.EllipticCurvePublicKey,
        purpose: x509.ObjectIdentifier,
        days: int,
        alternatives: x509.SubjectAlternativeName | None = None,
    ) -> x509.Certificate:
        not_before, not_after = _validity(days)
        # A certificate that outlives its issuer only looks valid.
        validity = (not_before, min(not_after, self.certificate.not_valid_after_utc))
        issuer, issuer_key = self.certificate.subject, self.key.public_key()
        builder = (
            _builder(_name(common_name), issuer, public_key, issuer_key, validity)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self.key, hashes.SHA384())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """`key` as PKCS #8 PEM, not encrypted: the folder's permissions protect it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    validity: tuple[dt.datetime, dt.datetime],
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
        # RFC 5280, 4.2.1.1 and 4.2.1.2; Python's strict verification asks for both.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )


def _validity(days: int) -> tuple[dt.datetime, dt.datetime]:
    now = dt.datetime.now(dt.UTC)
    return now - _BACKDATE, now + dt.timedelta(days=days)


def _name(common_name: str) -> x509.Name:
    # RFC 5280 ends a common name at 64 characters; a longer host is still whole in the SAN, which
    # is the only place where a client looks for it. Site names are at most 63 long.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as err:
        raise InvalidInput(
            f"host {host!r} is neither an IP address nor an ASCII DNS name; give an international "
            "name in its xn-- form"
        ) from err


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

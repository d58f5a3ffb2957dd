"""Who a site is on the exchange: its certificate and key, and the coordinator's keys it trusts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

# Before gRPC is imported: its fork handlers stall a process whose data loader forks workers.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from fdfed.errors import CryptoError
from fdfed.exchange import MAX_MESSAGE_BYTES, NO_SEALING, HpkePublicKey, NoSealing

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # The back-off is ours: gRPC would share its own, of up to two minutes, with the next channel.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteIdentity:
    """A site's PEM files for mutual TLS, checked against one another, and the key to seal to.

    Raises:
        CryptoError: if one cannot be read, or they do not belong together, or not to this day.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    ca_certificate: bytes
    server_hpke_key: HpkePublicKey | NoSealing
    """The coordinator's, as it was pinned at provisioning. `NO_SEALING` is for tests."""

    def __post_init__(self) -> None:
        try:
            certificate, *chain = x509.load_pem_x509_certificates(self.certificate)
            certified = certificate.public_key()
            start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            public_key = load_pem_private_key(self.key, password=None).public_key()
            authorities = x509.load_pem_x509_certificates(self.ca_certificate)
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as err:
            raise CryptoError(
                "the site's certificate, key or CA certificate is not readable PEM (the key without"
                " a password); put back the files that enrolment left"
            ) from err
        if certified != public_key:
            raise CryptoError(
                "the site's key is not the one its certificate was issued for; use the pair that "
                "was made at enrolment"
            )
        if not any(_issued_by(certificate, authority) for authority in (*authorities, *chain)):
            raise CryptoError(
                "the site's certificate was not issued by the CA in its folder, so the hub would "
                "not take it either; use the files of one enrolment"
            )
        if not start <= datetime.now(UTC) <= end:
            raise CryptoError(
                f"the site's certificate is valid from {start:%Y-%m-%d %H:%M} to "
                f"{end:%Y-%m-%d %H:%M} UTC, not now; check this machine's clock, or have the "
                "certificate renewed"
            )

    @property
    def site(self) -> str:
        """The common name of the certificate: as whom the hub knows this site."""
        subject = x509.load_pem_x509_certificate(self.certificate).subject
        names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(names[0].value) if names else ""

    @property
    def expires(self) -> datetime:
        """When the certificate ends."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc

    def channel(self, address: str) -> grpc.Channel:
        """A channel with mutual TLS; nothing is connected yet."""
        credentials = grpc.ssl_channel_credentials(self.ca_certificate, self.key, self.certificate)
        return grpc.secure_channel(address, credentials, options=_OPTIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class InsecureIdentity:
    """A name without proof, over a channel without TLS: for tests alone."""

    site: str
    server_hpke_key: HpkePublicKey | NoSealing = NO_SEALING

    def channel(self, address: str) -> grpc.Channel:
        """A channel in the clear."""
        return grpc.insecure_channel(address, options=_OPTIONS)


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True

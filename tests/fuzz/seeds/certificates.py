"""Certificates of the seeds."""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.fuzz import parties


def certificate(name: str, number: int, *, ca: bool = False, until: int = 2999) -> bytes:
    certificate = (
        x509.CertificateBuilder(
            name_of("test CA"), name_of(name), parties.elliptic_key(number).public_key()
        )
        .serial_number(number)
        .not_valid_before(dt.datetime(2000, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(until, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(parties.elliptic_key(3), hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def name_of(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])

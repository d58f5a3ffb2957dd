"""What a request to join, and its answer, may not be."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import CertificateSigningRequestBuilder, Name, NameAttribute
from cryptography.x509.oid import NameOID

from fdfed.config import Frozen
from fdfed.errors import CryptoError, InvalidInput
from fdfed.exchange import NO_SEALING
from fdfed.membership.enrolment import (
    MAX_ANSWER,
    MAX_REQUEST,
    EnrolmentAnswer,
    EnrolmentRequest,
    OwnKeys,
)
from fdfed.membership.roster import Roster, sign_roster
from fdfed_client.exchange_identity import SiteIdentity
from tests.fuzz.parties import POLICY, ROSTER, elliptic_key, elliptic_pem, signing_key
from tests.fuzz.target import CORPUS

ENTRY = ROSTER.sites["tnbc"]
OWN = OwnKeys(
    site="tnbc", fingerprint=ENTRY.fingerprint, certificate_key=elliptic_key(2).public_key()
)
ANSWER = EnrolmentAnswer.parse(
    (CORPUS / "enrolment-answer" / "valid").read_bytes(), source="the seed"
)


def signing_request(name: str, key: Any) -> str:
    subject = Name([NameAttribute(NameOID.COMMON_NAME, name)])
    made = CertificateSigningRequestBuilder(subject).sign(key, hashes.SHA256())
    return made.public_bytes(Encoding.PEM).decode()


def request(csr: str) -> bytes:
    made = EnrolmentRequest.make(
        site="tnbc",
        csr=csr,
        node_public_key=ENTRY.node_public_key,
        hpke_public_key=ENTRY.hpke_public_key,
        signing_key=signing_key(2),
        token=None,
    )
    return made.model_dump_json().encode()


def altered(message: Frozen, **changes: Any) -> Any:
    return message.model_copy(update=changes)


def resigned(roster: Roster) -> dict[str, str]:
    signatures = sign_roster(roster.text, signing_key(0))
    return {"roster": roster.text.decode(), "signatures": signatures.decode()}


def test_a_request_that_says_what_it_is_passes() -> None:
    assert EnrolmentRequest.parse(
        request(signing_request("tnbc", elliptic_key(2))), source="it"
    ).fingerprint == (ENTRY.fingerprint)


@pytest.mark.parametrize(
    ("csr", "reason"),
    [
        ("", "cannot be read"),
        (signing_request("ad", elliptic_key(2)), "asks for another name"),
        (
            signing_request("tnbc", rsa.generate_private_key(65537, 2048)),
            "is not signed by its own key",
        ),
    ],
    ids=["empty", "another name", "rsa"],
)
def test_a_signing_request_for_something_else_is_refused(csr: str, reason: str) -> None:
    with pytest.raises(CryptoError, match=reason):
        EnrolmentRequest.parse(request(csr), source="the request")


def test_what_is_too_large_is_refused_unread() -> None:
    with pytest.raises(InvalidInput, match=f"at most {MAX_REQUEST} are read"):
        EnrolmentRequest.parse(bytes(MAX_REQUEST + 1), source="the request")
    with pytest.raises(InvalidInput, match=f"at most {MAX_ANSWER} are read"):
        EnrolmentAnswer.parse(bytes(MAX_ANSWER + 1), source="the answer")


def test_the_answer_to_this_very_request_is_taken() -> None:
    assert set(ANSWER.verify(OWN, pinned=POLICY).roster.sites) == {"tnbc"}


@pytest.mark.parametrize(
    ("answer", "own", "reason"),
    [
        (altered(ANSWER, site="ad"), OWN, "the answer is for ad"),
        (ANSWER, dataclasses.replace(OWN, fingerprint="0" * 64), "or for other keys"),
        (altered(ANSWER, certificate="no PEM"), OWN, "no certificate that can be read"),
        (
            ANSWER,
            dataclasses.replace(OWN, certificate_key=elliptic_key(4).public_key()),
            "exchanged on the way",
        ),
        (altered(ANSWER, **resigned(ROSTER)), OWN, "not the one in the signed roster"),
        (altered(ANSWER, signatures="[]"), OWN, "0 signature"),
    ],
    ids=["site", "keys", "no PEM", "another key", "another certificate", "unsigned"],
)
def test_an_answer_that_was_changed_or_is_anothers_is_refused(
    answer: EnrolmentAnswer, own: OwnKeys, reason: str
) -> None:
    with pytest.raises(CryptoError, match=reason):
        answer.verify(own, pinned=POLICY)


def test_a_signing_request_of_an_unknown_version_is_refused() -> None:
    # Found by the fuzzer: the error of `cryptography` for it is no ValueError.
    data = (CORPUS / "enrolment-request" / "unknown-version").read_bytes()
    csr = EnrolmentRequest.model_validate_json(data).csr
    with pytest.raises(CryptoError, match="cannot be read"):
        EnrolmentRequest.parse(request(csr), source="the request")


def test_a_certificate_of_an_unknown_version_is_refused() -> None:
    certificate = (CORPUS / "certificate" / "unknown-version").read_text()
    with pytest.raises(CryptoError, match="no certificate that can be read"):
        altered(ANSWER, certificate=certificate).verify(OWN, pinned=POLICY)
    with pytest.raises(CryptoError, match="not readable PEM"):
        SiteIdentity(
            certificate=certificate.encode(),
            key=elliptic_pem(2),
            ca_certificate=(CORPUS / "certificate" / "authority").read_bytes(),
            server_hpke_key=NO_SEALING,
        )

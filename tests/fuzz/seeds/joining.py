"""Seeds of joining, and of masked sums."""

from __future__ import annotations

import json

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import Encoding

from fdfed.membership.enrolment import EnrolmentAnswer, EnrolmentRequest
from fdfed.membership.roster import sign_roster
from fdfed.privacy.accounting import Release
from fdfed.privacy.ledger import Entry, _document
from tests.fuzz import parties
from tests.fuzz.parties import PLAN, RUN
from tests.fuzz.seeds import certificates
from tests.fuzz.seeds.kinds import Seeds


def joining() -> Seeds:
    """A request to join, its answer, and a key for masked sums."""
    csr = (
        x509.CertificateSigningRequestBuilder(certificates.name_of("tnbc"))
        .sign(parties.elliptic_key(2), hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    entry = parties.ROSTER.sites["tnbc"]
    made = EnrolmentRequest.make(
        site="tnbc",
        csr=csr.decode(),
        node_public_key=entry.node_public_key,
        hpke_public_key=entry.hpke_public_key,
        signing_key=parties.signing_key(2),
        token="a" * 64,
    )
    yield "enrolment-request", "valid", made.model_dump_json().encode()
    pem = certificates.certificate("tnbc", 2)
    certificate = x509.load_pem_x509_certificate(pem)
    listed = entry.model_copy(
        update={
            "certificate_sha256": certificate.fingerprint(hashes.SHA256()).hex(),
            "certificate_serial": f"{certificate.serial_number:x}",
        }
    )
    roster = parties.ROSTER.model_copy(update={"sites": {"tnbc": listed}})
    signatures = sign_roster(roster.text, parties.signing_key(0))
    answer = {"site": "tnbc", "certificate": pem.decode(), "roster": roster.text.decode()}
    answered = EnrolmentAnswer(**answer, signatures=signatures.decode())
    yield "enrolment-answer", "valid", answered.model_dump_json().encode()
    public = x25519.X25519PrivateKey.from_private_bytes(b"k" * 32).public_key()
    announced = {
        "context": {"roster": "d" * 64, "run_id": RUN, "server_round": 3, "attempt": 1},
        "site": "ad",
        "public_key": public.public_bytes_raw().hex(),
        "signature": "0" * 128,
    }
    yield "masking-key", "valid", json.dumps(announced).encode()
    low_order = announced | {"public_key": "0" * 64}
    yield "masking-key", "low-order", json.dumps(low_order).encode()
    asked = b"PUT\n/v1/enrolment/tnbc\n" + b"k" * 64 + b"\n\n"
    yield "enrolment-desk", "request", asked + made.model_dump_json().encode()
    yield "enrolment-desk", "answer", asked.replace(b"PUT", b"GET")
    spent = Release(noise_multiplier=1.5, sample_rate=0.5, steps=3)
    entered = Entry(run_id=RUN, server_round=1, attempt=1, kind="weights", release=spent)
    yield "privacy-ledger", "valid", _document([entered]).encode()
    yield "kept-state", "attempt", b"[3, 1]"
    yield "kept-state", "plan", f'{{"plan": {PLAN.to_json()}, "signature": ""}}'.encode()

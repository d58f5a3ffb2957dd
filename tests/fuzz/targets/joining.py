"""What a site that joins hands in and gets, and the keys that sites announce for masked sums."""

from __future__ import annotations

import json

from fdfed.errors import CryptoError, InvalidInput, PrivacyBudgetExceeded
from fdfed.membership.enrolment import EnrolmentAnswer, EnrolmentRequest, OwnKeys
from fdfed.membership.roster import sign_roster
from fdfed.privacy.ledger import Ledger, _digest
from fdfed.privacy.masking_keys import (
    KeyContext,
    MaskingKey,
    Signer,
    _Announcement,
    _parse,
    _statement,
    announced_by,
)
from fdfed_client.plan_approval import PlanRecords
from fdfed_server.ready_phase import AttemptCounter
from tests.fuzz.parties import (
    PLAN,
    POLICY,
    ROSTER,
    RUN,
    SITES,
    elliptic_key,
    signing_key,
)
from tests.fuzz.target import CORPUS, JsonPart, Target, scratch

TOKEN = "a" * 64
OWN = OwnKeys(
    site="tnbc",
    fingerprint=ROSTER.sites["tnbc"].fingerprint,
    certificate_key=elliptic_key(2).public_key(),
)
KEY_CONTEXT = KeyContext(roster="d" * 64, run_id=RUN, server_round=3, attempt=1)


def request(data: bytes) -> None:
    """A request to join: as it came, then signed by whoever made it."""
    try:
        found = EnrolmentRequest.parse(data, source="the request")
    except CryptoError:
        found = EnrolmentRequest.parse(_signed(data), source="the request")
    assert found.fingerprint
    found.is_vouched_by(TOKEN)


def _signed(data: bytes) -> bytes:
    read = EnrolmentRequest.model_validate_json(data)
    made = EnrolmentRequest.make(
        site=read.site,
        csr=read.csr,
        node_public_key=read.node_public_key,
        hpke_public_key=read.hpke_public_key,
        signing_key=signing_key(2),
        token=TOKEN,
    )
    return made.model_dump_json().encode()


def answer(data: bytes) -> None:
    """The answer to a request: as it came, then with its roster signed by the consortium."""
    read = EnrolmentAnswer.parse(data, source="the answer")
    try:
        read.verify(OWN, pinned=POLICY)
    except CryptoError:
        signatures = sign_roster(read.roster.encode(), signing_key(0)).decode()
        read.model_copy(update={"signatures": signatures}).verify(OWN, pinned=POLICY)


def _signer(site: str) -> Signer:
    def public_key_of(name: str) -> str:
        if name not in SITES:
            raise CryptoError(f"{name} is not in the roster")
        return signing_key(SITES.index(name) + 1).public_key().public_bytes_raw().hex()

    return Signer(site, "d" * 64, signing_key(SITES.index(site) + 1), public_key_of)


def masking_key(data: bytes) -> None:
    """A key that the coordinator relays: as it came, then signed by the site it names."""
    text = data.decode("utf-8", errors="surrogateescape")
    own = MaskingKey(_signer("tnbc"), KEY_CONTEXT)
    try:
        _, members = own.masks([own.announcement, text], inputs=b"")
    except CryptoError:
        _, members = own.masks([own.announcement, _announced(text)], inputs=b"")
    assert members == ("ad", announced_by(own.announcement))


def _announced(text: str) -> str:
    read = _parse(text)
    number = SITES.index(read.site) + 1 if read.site in SITES else 9
    signature = signing_key(number).sign(_statement(read.context, read.site, read.public_key))
    return _Announcement(
        context=read.context, site=read.site, public_key=read.public_key, signature=signature.hex()
    ).model_dump_json()


def kept(data: bytes) -> None:
    """Small files of a coordinator's and of a site's state."""
    with scratch() as folder:
        (folder / "attempt.json").write_bytes(data)
        (folder / "run-plan.json").write_bytes(data)
        try:
            assert AttemptCounter(folder).next(1) >= 1
        except InvalidInput:
            assert PlanRecords(folder).last() is not None


def ledger(data: bytes) -> None:
    """A site's privacy ledger: as it is, then with a checksum that is right."""
    with scratch() as folder:
        path = folder / "ledger.json"
        path.write_bytes(data)
        try:
            entries = Ledger(path).entries()
        except PrivacyBudgetExceeded:
            path.write_bytes(_checked(data))
            entries = Ledger(path).entries()
    assert all(entry.release.noise_multiplier > 0 for entry in entries)


def _checked(data: bytes) -> bytes:
    try:
        document = json.loads(data)
        document["sha256"] = _digest(document["entries"])
        return json.dumps(document).encode()
    except (ValueError, TypeError, LookupError, RecursionError):
        return data


def _text(name: str) -> str:
    return (CORPUS / name / "valid").read_text()


_BAD = (CryptoError, InvalidInput)
_ENROLMENT = ("fdfed/membership/enrolment.py",)
_KEPT = f'{{"plan": {PLAN.to_json()}, "signature": ""}}'

TARGETS = (
    Target("enrolment-request", request, _BAD, _ENROLMENT, (JsonPart(_text("enrolment-request")),)),
    Target("enrolment-answer", answer, _BAD, _ENROLMENT, (JsonPart(_text("enrolment-answer")),)),
    Target(
        "masking-key",
        masking_key,
        (CryptoError,),
        ("fdfed/privacy/masking_keys.py",),
        (JsonPart(_text("masking-key")),),
    ),
    Target(
        "privacy-ledger",
        ledger,
        (PrivacyBudgetExceeded,),
        ("fdfed/privacy/ledger.py",),
        (JsonPart(_text("privacy-ledger")),),
    ),
    Target(
        "kept-state",
        kept,
        (InvalidInput,),
        (),
        (JsonPart(_KEPT), JsonPart("[3, 1]")),
    ),
)

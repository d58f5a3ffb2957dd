"""Keys, certificates, the roster and the offer of a group secret."""

from __future__ import annotations

import functools
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.audit.line import Head, read_line
from fdfed.errors import CryptoError, InvalidInput
from fdfed.exchange import NO_SEALING, HpkePrivateKey, HpkePublicKey
from fdfed.exchange.group_secret import Expected, _Offer, _parse, _statement
from fdfed.membership.roster import Roster, SignedRoster, sign_roster
from fdfed.release import verify_release
from fdfed_client.exchange_identity import SiteIdentity
from tests.fuzz.parties import (
    CONTEXT,
    POLICY,
    ROSTER,
    RUN,
    SITES,
    elliptic_pem,
    hpke_key,
    member,
    signing_key,
)
from tests.fuzz.target import CORPUS, JsonPart, Target, scratch

_SPLIT = b"\n--\n"


def key_text(data: bytes) -> None:
    """A key in its text form; a public one is sealed to, too."""
    text = data.decode("ascii", errors="replace")
    try:
        assert HpkePrivateKey.parse(text).public.fingerprint
    except CryptoError:
        HpkePublicKey.parse(text).seal(b"secret", info=b"")


def ciphertext(data: bytes) -> None:
    """What was sealed to a site."""
    hpke_key(1).open(data, info=b"")


def roster(data: bytes) -> None:
    """`roster.json`, as its signer reads it: nothing vouches for it yet."""
    with scratch() as folder:
        found = Roster.parse_text(data, source=folder / "roster.json")
    for site in found.sites.values():
        assert site.fingerprint
        assert site.hpke_key.text


def signed_roster(data: bytes) -> None:
    """`roster.json`, `roster.sig` and `consortium.pub`. A roster alone comes with its signature."""
    text, *others = data.split(_SPLIT)
    usual = (sign_roster(text, signing_key(0)), POLICY.text.encode())
    signature, key = (*others, *usual[len(others) :])[:2]
    with scratch() as folder:
        for name, content in (("json", text), ("sig", signature), ("pub", key)):
            (folder / f"roster.{name}").write_bytes(content)
        SignedRoster.load(folder / "roster.json", public_key=folder / "roster.pub")


def _resigned(text: str) -> str:
    """The offer with a signature that holds, if it can be read: what a hostile member sends."""
    offer = _parse(text)
    maker = offer.context.maker
    number = SITES.index(maker) + 1 if maker in SITES else 9
    key: ed25519.Ed25519PrivateKey = signing_key(number)
    signature = key.sign(_statement(offer.context, offer.sealed)).hex()
    return _Offer(context=offer.context, sealed=offer.sealed, signature=signature).model_dump_json()


def offer(data: bytes) -> None:
    """The offer of a secret that the coordinator relays: as it came, then signed by its maker."""
    text = data.decode("utf-8", errors="surrogateescape")
    expected = Expected(run_id=RUN, server_round=3, attempt=1, after_epoch=0)
    try:
        secret, sites = member("tnbc").accept(text, expected)
    except CryptoError:
        secret, sites = member("tnbc").accept(_resigned(text), expected)
    assert secret.epoch > 0
    assert "tnbc" in sites


def certificate(data: bytes) -> None:
    """`site.pem`, and `ca.pem` behind it if there is a second part."""
    site, *authority = data.split(_SPLIT)
    identity = SiteIdentity(
        certificate=site,
        key=elliptic_pem(2),
        ca_certificate=authority[0] if authority else _authority(),
        server_hpke_key=NO_SEALING,
    )
    assert isinstance(identity.site, str)


@functools.cache
def _authority() -> bytes:
    return (CORPUS / "certificate" / "authority").read_bytes()


def audit_line(data: bytes) -> None:
    """A line of an audit log, and its head: an auditor reads what a hospital hands in."""
    public = signing_key(1).public_key().public_bytes_raw().hex()
    try:
        line = read_line(data)
    except InvalidInput:
        assert Head.from_text(data, public).number is not None
    else:
        assert line.number > 0
        line.is_signed_by(public)


def release(data: bytes) -> None:
    """The manifest of a released model, and its signature; a manifest alone is signed here."""
    manifest, *others = data.split(_SPLIT)
    key = signing_key(0)
    with scratch() as folder:
        for name in ("model.safetensors", "model-card.json", "model-card.md"):
            (folder / name).write_bytes(b"")
        (folder / "release.json").write_bytes(manifest)
        signed = key.sign(b"fdfed model release 1\n" + manifest).hex().encode()
        (folder / "release.sig").write_bytes(others[0] if others else signed)
        found = verify_release(folder, public_key=key.public_key().public_bytes_raw().hex())
    assert found.model_sha256


_SEALED = '{"ad":"YWE=","tnbc":"YWE="}'
_OFFER = f'{{"context":{CONTEXT.model_dump_json()},"sealed":{_SEALED},"signature":"{"0" * 128}"}}'
_RELEASE = (CORPUS / "release" / "empty-files").read_text()
_HPKE = ("fdfed/exchange/hpke.py",)
_ROSTER = (
    "fdfed/membership/roster.py",
    "fdfed/membership/consortium.py",
    "fdfed/files/strict_json.py",
)
_TEXT = ROSTER.text.decode()
_SIGNATURES = sign_roster(ROSTER.text, signing_key(0)).decode()


def _behind(*parts: bytes) -> Callable[[str], bytes]:
    return lambda text: _SPLIT.join((*parts, text.encode("utf-8", errors="surrogatepass")))


_BAD = (CryptoError, InvalidInput)

TARGETS = (
    Target("hpke-key", key_text, (CryptoError,), _HPKE),
    Target("hpke-ciphertext", ciphertext, (CryptoError,), _HPKE),
    Target("roster", roster, (InvalidInput,), _ROSTER, (JsonPart(_TEXT),)),
    Target(
        "signed-roster",
        signed_roster,
        _BAD,
        _ROSTER,
        (
            JsonPart(_TEXT),
            JsonPart(_SIGNATURES, _behind(ROSTER.text)),
            JsonPart(POLICY.text, _behind(ROSTER.text, _SIGNATURES.encode())),
        ),
    ),
    Target(
        "group-offer",
        offer,
        (CryptoError,),
        ("fdfed/exchange/group_secret.py",),
        (JsonPart(_OFFER),),
    ),
    Target("release", release, _BAD, ("fdfed/release.py",), (JsonPart(_RELEASE),)),
    Target("audit-line", audit_line, (InvalidInput,), ("fdfed/audit/line.py",)),
    Target(
        "certificate", certificate, (CryptoError,), ("client/fdfed_client/exchange_identity.py",)
    ),
)

"""Keys, roster and plan of the targets: fixed, so that an input means the same in every run.

They protect nothing; each follows from one byte.
"""

from __future__ import annotations

import dataclasses

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fdfed.config import RunPlan
from fdfed.exchange import HpkePrivateKey, HpkeSuite
from fdfed.exchange.group_secret import Member, OfferContext
from fdfed.exchange.sealing import Ratchet, SealedSession
from fdfed.membership.consortium import PolicyStep, SigningPolicy
from fdfed.membership.roster import Roster, SignedRoster, SiteIdentity, sign_roster

SITES = ("ad", "tnbc")
RUN = "0123456789abcdef"
NONCE = bytes(range(32))
PLAN = RunPlan(sites=SITES, rounds=4, width=4, size=32, in_channels=1)


def elliptic_key(number: int) -> ec.EllipticCurvePrivateKey:
    """The curve's key of this number."""
    return ec.derive_private_key(number, ec.SECP256R1())


def elliptic_pem(number: int) -> bytes:
    """The same as a PEM file."""
    return elliptic_key(number).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def signing_key(number: int) -> ed25519.Ed25519PrivateKey:
    """The signing key of this number; number 0 is the consortium's."""
    return ed25519.Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def hpke_key(number: int, suite: HpkeSuite = HpkeSuite.X25519) -> HpkePrivateKey:
    """The HPKE key of this number; number 0 is the coordinator's."""
    return HpkePrivateKey(suite, bytes([number + 1]) * 32)


def _identity(number: int) -> SiteIdentity:
    node = elliptic_key(number).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return SiteIdentity(
        node_public_key=node.decode(),
        certificate_sha256=f"{number:064x}",
        certificate_serial=f"{number:x}",
        hpke_public_key=hpke_key(number).public.text,
        signing_public_key=signing_key(number).public_key().public_bytes_raw().hex(),
    )


POLICY = SigningPolicy(
    threshold=1, signers={"consortium": signing_key(0).public_key().public_bytes_raw().hex()}
)
ROSTER = Roster(
    sites={name: _identity(number) for number, name in enumerate(SITES, start=1)},
    policies=(PolicyStep(policy=POLICY),),
)
# Offers name a roster by its digest: they stay good when a roster's form grows.
SIGNED = dataclasses.replace(
    SignedRoster.verify(
        ROSTER.text, sign_roster(ROSTER.text, signing_key(0)), pinned=POLICY, source="the roster"
    ),
    digest="d" * 64,
)
CONTEXT = OfferContext(
    roster=SIGNED.digest, run_id=RUN, server_round=3, attempt=1, epoch=7, maker="ad"
)


def member(site: str) -> Member:
    """A site with its keys."""
    number = SITES.index(site) + 1
    return Member(site, SIGNED, signing_key(number), hpke_key(number))


def session_pair() -> tuple[SealedSession, SealedSession]:
    """The site's end and the hub's end of a session under a fixed secret."""

    def ratchet(direction: int) -> Ratchet:
        return Ratchet(bytes([direction]) * 32, bytes([direction]))

    return SealedSession(ratchet(1), ratchet(2)), SealedSession(ratchet(2), ratchet(1))

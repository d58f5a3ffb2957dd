"""The offer of a round's blinding secret: one site makes it, seals it to each; others relay it.

HPKE does not say who sealed. So the maker signs the whole offer, recipients and ciphertexts
included, together with the roster it goes by, the round it is for and an epoch that never goes
back. The coordinator can withhold an offer; it can read, alter, redirect or replay none.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519
from pydantic import Field, ValidationError

from fdfed.config import Frozen, SiteName
from fdfed.errors import CryptoError
from fdfed.exchange.blinding import BlindingSecret
from fdfed.exchange.hpke import HpkePrivateKey
from fdfed.membership.roster import Digest, SignedRoster

MAX_OFFER: Final = 4 << 20
"""Characters; one for a thousand sites has about 1.7 million."""
MAX_EPOCH: Final = 2**62
_LABEL: Final = b"fdfed group secret 1\n"


class OfferContext(Frozen):
    """What an offer is for; all of it is signed, and sealed into every ciphertext's context."""

    roster: Digest
    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")]
    server_round: int = Field(ge=1, le=10**9)
    attempt: int = Field(ge=1, le=1_000_000)
    epoch: int = Field(ge=1, le=MAX_EPOCH)
    maker: SiteName


class _Offer(Frozen):
    context: OfferContext
    sealed: dict[SiteName, str]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


@dataclass(frozen=True, slots=True)
class Member:
    """What one site brings to the exchange of secrets."""

    site: str
    roster: SignedRoster
    signing_key: ed25519.Ed25519PrivateKey
    hpke_key: HpkePrivateKey
    approved: frozenset[str] | None = None
    """Fingerprints of the sites that may share a secret with this one; None: all of the roster."""

    def check_members(self, names: Iterable[str]) -> None:
        """Whether this site shares a secret with all of these.

        Raises:
            CryptoError: naming the first site that is not in the signed roster, or not approved.
        """
        for name in names:
            entry = self.roster.roster.sites.get(name)
            if entry is None:
                raise CryptoError(
                    f"the coordinator names {name} as a member, which is not in the roster that "
                    "the consortium signed; no secret is shared with it. If it has joined, fetch "
                    "the new roster.json and roster.sig; else ask the coordinator's operator"
                )
            if self.approved is not None and entry.fingerprint not in self.approved:
                raise CryptoError(
                    f"{name} is in the roster, but {self.site} has not approved its keys; compare "
                    f"the fingerprint {entry.fingerprint} with {name} over the telephone, then add "
                    "it to approved in site.toml"
                )

    def offer(self, secret: BlindingSecret, context: OfferContext, members: Iterable[str]) -> str:
        """The offer, as text, of `secret` to `members`.

        Raises:
            CryptoError: if a member is not in the roster or not approved.
        """
        names = sorted(members)
        self.check_members(names)
        sealed = {
            name: base64.b64encode(
                self.roster.roster.sites[name].hpke_key.seal(
                    secret.data, info=_info(context, recipient=name)
                )
            ).decode()
            for name in names
        }
        signature = self.signing_key.sign(_statement(context, sealed)).hex()
        return _Offer(context=context, sealed=sealed, signature=signature).model_dump_json()

    def accept(self, text: str, expected: Expected) -> tuple[BlindingSecret, tuple[str, ...]]:
        """The secret that another member (or this one) offers, and with whom it is shared.

        Raises:
            CryptoError: if it is no offer, or not by a member, not for this roster, run, round and
                attempt, not new, not to this site, shared with a site that this one has not
                approved, or altered.
        """
        offer = _parse(text)
        context = offer.context
        if context.roster != self.roster.digest:
            raise CryptoError(
                f"the secret is offered under the roster {context.roster[:16]}…, but {self.site} "
                f"has {self.roster.digest[:16]}… (version {self.roster.roster.version}); all sites "
                "need the same signed roster.json"
            )
        maker = self.roster.roster.sites.get(context.maker)
        if maker is None:
            raise CryptoError(
                f"the secret is offered by {context.maker}, which is no member of the roster; "
                "whoever relayed it must be asked where it comes from"
            )
        _verify(maker.signing_public_key, offer)
        expected.check(context)
        self.check_members(offer.sealed)
        ciphertext = offer.sealed.get(self.site)
        if ciphertext is None:
            raise CryptoError(
                f"{context.maker} offered the secret to {', '.join(offer.sealed)}, not to "
                f"{self.site}; the coordinator must name all sites of the round"
            )
        try:
            data = base64.b64decode(ciphertext, validate=True)
        except ValueError as err:
            raise CryptoError("the sealed secret is not in base64") from err
        plaintext = self.hpke_key.open(data, info=_info(context, recipient=self.site))
        return BlindingSecret(plaintext, epoch=context.epoch), tuple(offer.sealed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a receiver knows itself of the offer it waits for."""

    run_id: str
    server_round: int
    attempt: int
    after_epoch: int
    """The last epoch that this site has used, in whatever run."""

    @classmethod
    def of(cls, message: Any, *, after_epoch: int) -> Expected:
        """For the round that `message` (with run_id, server_round, attempt) begins."""
        return cls(
            run_id=message.run_id,
            server_round=message.server_round,
            attempt=message.attempt,
            after_epoch=after_epoch,
        )

    def check(self, context: OfferContext) -> None:
        """Raises CryptoError for an offer for another round, or of an epoch that has been."""
        got = (context.run_id, context.server_round, context.attempt)
        if got != (self.run_id, self.server_round, self.attempt):
            raise CryptoError(
                f"the secret was made for round {context.server_round}, attempt {context.attempt} "
                f"of run {context.run_id[:8]}…, and is relayed for round {self.server_round}, "
                f"attempt {self.attempt} of run {self.run_id[:8]}…; a secret serves one attempt"
            )
        if context.epoch <= self.after_epoch:
            raise CryptoError(
                f"the secret is of epoch {context.epoch}, but epoch {self.after_epoch} has been "
                "used here: it is a replay, or its maker's clock is behind. Epochs never go back"
            )


def _parse(text: str) -> _Offer:
    if len(text) > MAX_OFFER:
        raise CryptoError(f"an offer of {len(text)} characters; at most {MAX_OFFER} are read")
    try:
        return _Offer.model_validate_json(text)
    except ValidationError as err:
        raise CryptoError(
            "the coordinator relayed no offer of a secret that can be read; both sides need the "
            "same fdfed version"
        ) from err


def _verify(public_key: str, offer: _Offer) -> None:
    key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
    try:
        key.verify(bytes.fromhex(offer.signature), _statement(offer.context, offer.sealed))
    except InvalidSignature as err:
        raise CryptoError(
            f"the offer says that {offer.context.maker} made it, but is not signed by that site's "
            "key: it was forged or altered on the way"
        ) from err


def _statement(context: OfferContext, sealed: Mapping[str, str]) -> bytes:
    return _LABEL + _canonical({"context": context.model_dump(), "sealed": dict(sealed)})


def _info(context: OfferContext, *, recipient: str) -> bytes:
    return _LABEL + _canonical({"context": context.model_dump(), "recipient": recipient})


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

"""Keys for pairwise masks: fresh ones of every site for every attempt, vouched for by the roster.

Each site makes an X25519 key pair and signs the public half, with what it is for, by the key that
the roster lists for it. The coordinator relays these announcements; which of them a site is handed
is the set of sites of the attempt. From a shared secret follows the key of a pair:

    k_st = HKDF-SHA256(X25519(a_s, A_t), info = context, both names, set, inputs)

`set` is the hash of all announcements, and `inputs` that of everything the coordinator sent to be
trained from. So masks cancel only among sites that were shown one set and one model. Without the
latter, a coordinator that gives one site a model and the others another one that cannot learn would
read the one's update from the sum (Pasquini et al. 2022, arXiv:2111.07380).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field, ValidationError

from fdfed.config import Frozen, SiteName
from fdfed.errors import CryptoError
from fdfed.privacy.pairwise_masks import KEY_BYTES, PairKey, PairwiseMasks

MAX_ANNOUNCEMENT: Final = 4096
"""Characters; one has about 600."""
MIN_SITES: Final = 2
"""Below it there is no pair to share a mask."""
_LABEL: Final = b"fdfed masking key 1\n"
_PAIR_LABEL: Final = b"fdfed pairwise mask 1\n"

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class KeyContext(Frozen):
    """What a key is for; all of it is signed, and enters every mask."""

    roster: _Digest
    """Hash of the roster that the site goes by."""
    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")]
    server_round: int = Field(ge=1)
    attempt: int = Field(ge=1)


class _Announcement(Frozen):
    context: KeyContext
    site: SiteName
    public_key: _Digest
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


@dataclass(frozen=True, slots=True)
class Signer:
    """Who a site is to its peers, and how it knows them: by their signing keys alone."""

    site: str
    roster: str
    """Hash of the roster, in hexadecimal."""
    signing_key: ed25519.Ed25519PrivateKey
    public_key_of: Callable[[str], str]
    """A site's Ed25519 key in hexadecimal; raises `CryptoError` for one that is not in the roster,
    or with which this site shares nothing."""

    @classmethod
    def circle(cls, sites: Sequence[str]) -> dict[str, Signer]:
        """Signers for sites in one process, which have nobody to hide from: keys made here."""
        keys = {site: ed25519.Ed25519PrivateKey.generate() for site in sites}
        public = {site: key.public_key().public_bytes_raw().hex() for site, key in keys.items()}
        roster = hashlib.sha256(_canonical(public)).hexdigest()

        def public_key_of(site: str) -> str:
            if site not in public:
                raise CryptoError(f"{site} is none of the sites {', '.join(public)}")
            return public[site]

        return {site: cls(site, roster, key, public_key_of) for site, key in keys.items()}


class MaskingKey:
    """A site's key pair for one attempt. It gives masks once and is gone then."""

    def __init__(self, signer: Signer, context: KeyContext) -> None:
        self._signer = signer
        self._context = context
        self._private: x25519.X25519PrivateKey | None = x25519.X25519PrivateKey.generate()
        public = self._private.public_key().public_bytes_raw().hex()
        statement = _statement(context, signer.site, public)
        self.announcement = _Announcement(
            context=context,
            site=signer.site,
            public_key=public,
            signature=signer.signing_key.sign(statement).hex(),
        ).model_dump_json()
        """The signed public half, as text for the peers."""

    def masks(
        self, announcements: Sequence[str], *, inputs: bytes
    ) -> tuple[PairwiseMasks, tuple[str, ...]]:
        """This site's masks among the sites that announced a key, and their names.

        Args:
            announcements: of all sites of the attempt, this one's own included, in any order.
            inputs: hash of what this site was sent to train from.

        Raises:
            CryptoError: if the key has been used; or an announcement is not of the agreed form, not
                by a site of the roster, not signed by it, for something else, one of two by one
                site; or if this site's own is not among them, or no peer's is.
        """
        peers = self._peers(announcements)
        private, self._private = self._private, None
        if private is None:
            raise CryptoError(
                f"{self._signer.site} has used its masking key of round "
                f"{self._context.server_round}, attempt {self._context.attempt}; it answers once. "
                "The coordinator must begin a new attempt"
            )
        members = tuple(sorted((*peers, self._signer.site)))
        digest = hashlib.sha256(_canonical(sorted(announcements))).hexdigest()
        common = self._context.model_dump() | {"set": digest, "inputs": inputs.hex()}
        keys = [_pair_key(private, peers[peer], self._signer.site, peer, common) for peer in peers]
        return PairwiseMasks(keys), members

    def _peers(self, announcements: Sequence[str]) -> dict[str, str]:
        """The verified public keys of all other sites of the set, by name, sorted."""
        site = self._signer.site
        if self.announcement not in announcements:
            raise CryptoError(
                f"the set that the coordinator relayed lacks the key that {site} announced for "
                "this attempt, or holds another in its name"
            )
        found: dict[str, str] = {}
        for text in announcements:
            announced = self._verified(text)
            if announced.site in found:
                raise CryptoError(f"the coordinator relayed two masking keys of {announced.site}")
            found[announced.site] = announced.public_key
        if len(found) < MIN_SITES:
            raise CryptoError(
                f"{site} would be alone in the sum, which would be its update; masking needs at "
                "least one peer, and hides something from three sites on"
            )
        return {name: found[name] for name in sorted(found) if name != site}

    def _verified(self, text: str) -> _Announcement:
        announced, own = _parse(text), self._context
        if announced.context != own:
            got = announced.context
            raise CryptoError(
                f"{announced.site} announced a masking key for round {got.server_round}, attempt "
                f"{got.attempt} of run {got.run_id[:8]}… under roster {got.roster[:16]}…; this "
                f"is round {own.server_round}, attempt {own.attempt} of run {own.run_id[:8]}… "
                f"under roster {own.roster[:16]}…. A key serves one attempt, and all sites need "
                "the same signed roster.json"
            )
        public = self._signer.public_key_of(announced.site)
        statement = _statement(announced.context, announced.site, announced.public_key)
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(
                bytes.fromhex(announced.signature), statement
            )
        except InvalidSignature as err:
            raise CryptoError(
                f"the masking key in the name of {announced.site} is not signed by that site's "
                "key: it was forged or exchanged on the way"
            ) from err
        return announced


def announced_by(text: str) -> str:
    """The site in whose name an announcement is; nothing of it is verified.

    Raises:
        CryptoError: if it is none.
    """
    return _parse(text).site


def _pair_key(
    private: x25519.X25519PrivateKey,
    public: str,
    site: str,
    peer: str,
    common: Mapping[str, object],
) -> PairKey:
    try:
        shared = private.exchange(x25519.X25519PublicKey.from_public_bytes(bytes.fromhex(public)))
    except ValueError as err:
        # A point of low order: the secret would be known to all.
        raise CryptoError(f"the masking key of {peer} is no usable X25519 key") from err
    info = _PAIR_LABEL + _canonical({**common, "pair": sorted((site, peer))})
    key = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(shared)
    return PairKey(key, adds=site < peer)


def _parse(text: str) -> _Announcement:
    if len(text) > MAX_ANNOUNCEMENT:
        raise CryptoError(
            f"an announcement of {len(text)} characters; at most {MAX_ANNOUNCEMENT} are read"
        )
    try:
        return _Announcement.model_validate_json(text)
    except ValidationError as err:
        raise CryptoError(
            "the coordinator relayed no masking key that can be read; all sides need the same "
            "fdfed version"
        ) from err


def _statement(context: KeyContext, site: str, public_key: str) -> bytes:
    return _LABEL + _canonical(
        {"context": context.model_dump(), "site": site, "public_key": public_key}
    )


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

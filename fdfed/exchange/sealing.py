"""Seals everything that crosses on one stream between a site and the hub, beneath TLS.

It protects prototypes where TLS ends before the coordinator's process: an ingress, a load balancer,
a proxy. The hub begins with a fresh nonce; the site answers with its opening, a fresh session
secret sealed by HPKE to the coordinator's pinned key; from then on both send nothing but

    (counter, length, AEAD ciphertext)

with AES-256-GCM, one key per direction:

    info      = label ‖ version ‖ suite ‖ site ‖ nonce          each behind its length
    opening   = HPKE.Seal(pk_coordinator, info, S)              S: 32 fresh bytes
    salt      = SHA-256(info ‖ opening)
    T_d,0     = HKDF(S, salt, "… to hub" or "… to site")        per direction d
    T_d,e+1   = HKDF-Expand(T_d,e, "next")                      every 2³² frames
    key, iv   = HKDF-Expand(T_d,e, "key"), HKDF-Expand(T_d,e, "iv")
    nonce_i   = iv XOR i,     associated data = direction ‖ i ‖ length

Sources: HPKE is RFC 9180, HKDF is RFC 5869; nonce and key update follow TLS 1.3 (RFC 8446, sections
5.3 and 7.2). Frames come on an ordered stream, so the receiver takes counter last + 1 alone, and
after the first frame that is not right it opens nothing more. Which step a frame belongs to is
inside the ciphertext, and so both hidden and authenticated.

HPKE's base mode does not authenticate its sender: the session says "someone who knows the
coordinator's public key", and that it is this site is what mutual TLS vouches for. The name that
the certificate gives is bound into `info`, the hub's nonce makes a recorded opening worthless, and
only the holder of the coordinator's private key can seal the first answer. Whoever gets hold of
that private key later can open recorded sessions, once past the forward secrecy of TLS around them.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from typing import Final, Protocol, runtime_checkable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from fdfed.errors import CryptoError
from fdfed.exchange import exchange_pb2 as pb
from fdfed.exchange.codes import ExchangeCode, FrameRefused
from fdfed.exchange.frames import PROTOCOL_VERSION
from fdfed.exchange.hpke import HpkePrivateKey, HpkePublicKey, HpkeSuite

NONCE_BYTES: Final = 32
"""Of the hub's challenge."""
FRAMES_PER_KEY: Final = 1 << 32
"""Then both sides derive the next key. With frames of 23.6 kB, 2^10.5 blocks, that is 2^42.5
blocks a key: AES differs from a random function there by less than 2^(2 · 42.5 - 129) = 2^-44."""
MAX_CONTENT_BYTES: Final = 3 << 20
"""Of one frame's content. The largest is 2 MiB of numbers and some terms."""

_LABEL: Final = b"fdfed exchange"
_TO_HUB: Final = _LABEL + b" to hub"
_TO_SITE: Final = _LABEL + b" to site"
_SECRET_BYTES: Final = 32
_IV_BYTES: Final = 12
_TAG_BYTES: Final = 16
_HASH: Final = hashes.SHA256()


class NoSealing:
    """Stands where a key is expected, and says that nothing is to be sealed.

    For tests and benchmarks: no configuration file and no command leads to it.
    """


NO_SEALING: Final = NoSealing()


@runtime_checkable
class Session(Protocol):
    """Turns contents into what crosses the wire, and back; one per stream and side."""

    def seal(self, content: bytes) -> pb.Sealed:
        """The next frame to send."""

    def unseal(self, frame: pb.Sealed) -> bytes:
        """The content of the next frame that came.

        Raises:
            FrameRefused: if it is not the next one, or not as it was sent. The session is at its
                end then: every later frame is refused too.
        """


class SealedSession:
    """A `Session` under two keys that only this site and the holder of the private key have."""

    def __init__(self, sending: Ratchet, receiving: Ratchet) -> None:
        self._sending = sending
        self._receiving = receiving
        self._refusal: FrameRefused | None = None

    def seal(self, content: bytes) -> pb.Sealed:
        """The next frame to send.

        Raises:
            FrameRefused: if the content is larger than a frame may be.
        """
        if len(content) > MAX_CONTENT_BYTES:
            raise FrameRefused(ExchangeCode.TOO_LARGE, f"{len(content)} bytes to send")
        counter, length = self._sending.counter, len(content)
        body = self._sending.encrypt(content)
        return pb.Sealed(counter=counter, length=length, body=body)

    def unseal(self, frame: pb.Sealed) -> bytes:
        """The content of the next frame that came; see `Session.unseal`."""
        if self._refusal is not None:
            raise FrameRefused(self._refusal.code, "after a frame that was refused")
        try:
            _check_header(frame, self._receiving.counter, tag_bytes=_TAG_BYTES)
            return self._receiving.decrypt(frame.body)
        except FrameRefused as err:
            self._refusal = err
            raise


class UnsealedSession:
    """A `Session` that hides nothing. It only comes about where both sides hold `NO_SEALING`."""

    def __init__(self) -> None:
        self._sent = self._received = 0

    def seal(self, content: bytes) -> pb.Sealed:
        """The content as it is."""
        frame = pb.Sealed(counter=self._sent, length=len(content), body=content)
        self._sent += 1
        return frame

    def unseal(self, frame: pb.Sealed) -> bytes:
        """The content as it is, if it is next in line."""
        _check_header(frame, self._received, tag_bytes=0)
        self._received += 1
        return frame.body


class Ratchet:
    """One direction's keys: frame i under nonce iv XOR i, the next key after `frames_per_key`."""

    def __init__(
        self, secret: bytes, direction: bytes, *, frames_per_key: int = FRAMES_PER_KEY
    ) -> None:
        """
        Args:
            secret: T_d,0, 32 bytes.
            direction: in the associated data of every frame.
            frames_per_key: the same on both sides; tests make it small.
        """
        self.counter = 0
        """Of the next frame."""
        self._direction = direction
        self._frames_per_key = frames_per_key
        self._secret = secret
        self._take_key()

    def encrypt(self, content: bytes) -> bytes:
        """`ciphertext ‖ tag` of the next frame."""
        body = self._aead.encrypt(self._nonce(), content, self._header(len(content)))
        self._advance()
        return body

    def decrypt(self, body: bytes) -> bytes:
        """The content of the next frame.

        Raises:
            FrameRefused: ALTERED, and then the counter stays where it is.
        """
        try:
            content = self._aead.decrypt(self._nonce(), body, self._header(len(body) - _TAG_BYTES))
        except InvalidTag as err:
            raise FrameRefused(ExchangeCode.ALTERED, f"frame {self.counter}") from err
        self._advance()
        return content

    def _nonce(self) -> bytes:
        return (self._iv ^ self.counter).to_bytes(_IV_BYTES, "big")

    def _header(self, length: int) -> bytes:
        return struct.pack(">QI", self.counter, length) + self._direction

    def _advance(self) -> None:
        self.counter += 1
        if self.counter % self._frames_per_key == 0:
            self._secret = _expand(self._secret, b"next", _SECRET_BYTES)
            self._take_key()

    def _take_key(self) -> None:
        self._aead = AESGCM(_expand(self._secret, b"key", 32))
        self._iv = int.from_bytes(_expand(self._secret, b"iv", _IV_BYTES), "big")


def new_challenge() -> bytes:
    """The hub's first word on a stream, from the system's secure source."""
    return secrets.token_bytes(NONCE_BYTES)


def open_session(
    server_key: HpkePublicKey | NoSealing, *, site: str, challenge: bytes
) -> tuple[Session, pb.Hello]:
    """The site's session on a stream, and the greeting that lets the hub have the same.

    Args:
        server_key: the coordinator's, pinned at provisioning.
        site: the common name of the site's certificate.
        challenge: what the hub sent first.

    Raises:
        CryptoError: if the challenge is not one, or nothing can be sealed to the key.
    """
    if isinstance(server_key, NoSealing):
        return UnsealedSession(), pb.Hello(protocol_version=PROTOCOL_VERSION)
    if len(challenge) != NONCE_BYTES:
        raise CryptoError(
            f"the exchange hub began with {len(challenge)} bytes of challenge, not {NONCE_BYTES}; "
            "hub and site need the same fdfed version"
        )
    info = _info(server_key.suite, site, challenge)
    secret = secrets.token_bytes(_SECRET_BYTES)
    opening = server_key.seal(secret, info=info)
    to_hub, to_site = _ratchets(secret, info, opening)
    hello = pb.Hello(
        protocol_version=PROTOCOL_VERSION, suite=server_key.suite.value, opening=opening
    )
    return SealedSession(sending=to_hub, receiving=to_site), hello


def accept_session(
    key: HpkePrivateKey | NoSealing, *, site: str, challenge: bytes, hello: pb.Hello
) -> Session:
    """The hub's session on a stream that `hello` opens.

    Args:
        key: the coordinator's private key.
        site: as the client certificate names it, never as the site says.
        challenge: what the hub sent first on this very stream.
        hello: the site's answer.

    Raises:
        FrameRefused: WRONG_SUITE if the site seals otherwise or not at all, BAD_OPENING if its
            opening does not open with this key, on this stream, for this site.
    """
    if isinstance(key, NoSealing):
        if hello.suite or hello.opening:
            raise FrameRefused(ExchangeCode.WRONG_SUITE, "the site seals, this test hub does not")
        return UnsealedSession()
    if hello.suite != key.suite.value:
        raise FrameRefused(ExchangeCode.WRONG_SUITE, f"this hub's key is of {key.suite.value}")
    if len(hello.opening) != key.suite.overhead + _SECRET_BYTES:
        raise FrameRefused(ExchangeCode.BAD_OPENING, f"{len(hello.opening)} bytes of opening")
    info = _info(key.suite, site, challenge)
    try:
        secret = key.open(hello.opening, info=info)
    except CryptoError as err:
        raise FrameRefused(ExchangeCode.BAD_OPENING) from err
    to_hub, to_site = _ratchets(secret, info, hello.opening)
    return SealedSession(sending=to_site, receiving=to_hub)


def _check_header(frame: pb.Sealed, expected: int, *, tag_bytes: int) -> None:
    size = frame.length + tag_bytes
    if max(size, len(frame.body)) > MAX_CONTENT_BYTES + tag_bytes:
        raise FrameRefused(ExchangeCode.TOO_LARGE, f"{len(frame.body)} of {size} bytes")
    if len(frame.body) != size:
        cut = len(frame.body) < size
        raise FrameRefused(
            ExchangeCode.TRUNCATED if cut else ExchangeCode.ALTERED,
            f"{len(frame.body)} of {size} bytes",
        )
    if frame.counter != expected:
        replayed = frame.counter < expected
        raise FrameRefused(
            ExchangeCode.REPLAYED if replayed else ExchangeCode.OUT_OF_ORDER,
            f"frame {frame.counter} where {expected} is next",
        )


def _info(suite: HpkeSuite, site: str, challenge: bytes) -> bytes:
    """Context of the opening. Each part behind its length, so that no two contexts read alike."""
    parts = (_LABEL, str(PROTOCOL_VERSION).encode(), suite.value.encode(), site.encode(), challenge)
    return b"".join(struct.pack(">H", len(part)) + part for part in parts)


def _ratchets(secret: bytes, info: bytes, opening: bytes) -> tuple[Ratchet, Ratchet]:
    salt = hashlib.sha256(info + opening).digest()
    to_hub, to_site = (
        Ratchet(HKDF(_HASH, _SECRET_BYTES, salt=salt, info=direction).derive(secret), direction)
        for direction in (_TO_HUB, _TO_SITE)
    )
    return to_hub, to_site


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    return HKDFExpand(_HASH, length, info=_LABEL + b" " + label).derive(secret)

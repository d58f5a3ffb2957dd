"""Hybrid public key encryption (HPKE, RFC 9180, base mode): the keys, their text form, one shot.

Two suites, both with HKDF-SHA256 and AES-256-GCM; a key belongs to one of them, so that whoever
pins a public key has pinned the suite with it and nobody on the way can talk them down:

    mlkem768-x25519   ML-KEM-768 with X25519 (X-Wing, HPKE KEM 0x647A): stays secret as long as one
                      of the two holds, so also against a quantum computer that records today
    x25519            DHKEM(X25519, HKDF-SHA256), KEM 0x0020

Base mode does **not** authenticate its sender: whoever has the public key can seal. A receiver that
must know who sealed needs that from elsewhere (a client certificate, a signature). Nor is there
forward secrecy against the later loss of the receiver's private key.

The text form is one line, `<suite> <base64>`: of a public key its serialisation in the suite
(1216 or 32 bytes), of a private key the 32-byte seed (X-Wing, section 5.2) or scalar.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from fdfed.errors import CryptoError, InvalidInput

_MLKEM_PUBLIC_BYTES: Final = 1184
_X25519_BYTES: Final = 32
_SEED_BYTES: Final = 32
_TAG_BYTES: Final = 16

_NativePublic = x25519.X25519PublicKey | MLKEM768X25519PublicKey
_NativePrivate = x25519.X25519PrivateKey | MLKEM768X25519PrivateKey


class HpkeSuite(enum.Enum):
    """Which KEM a key is for; KDF and AEAD are HKDF-SHA256 and AES-256-GCM in both."""

    HYBRID = "mlkem768-x25519"
    X25519 = "x25519"

    @property
    def public_bytes(self) -> int:
        """Length of a serialised public key."""
        return _X25519_BYTES + (_MLKEM_PUBLIC_BYTES if self is HpkeSuite.HYBRID else 0)

    @property
    def overhead(self) -> int:
        """Bytes that a ciphertext is longer than its plaintext: the encapsulation and the tag."""
        return _KEMS[self].enc_length() + _TAG_BYTES

    def _native(self) -> Suite:
        return Suite(_KEMS[self], KDF.HKDF_SHA256, AEAD.AES_256_GCM)


_KEMS: Final = {HpkeSuite.HYBRID: KEM.MLKEM768_X25519, HpkeSuite.X25519: KEM.X25519}


@dataclass(frozen=True, slots=True)
class HpkePublicKey:
    """What others seal to. Equal if suite and bytes are."""

    suite: HpkeSuite
    data: bytes = field(repr=False)
    _native: _NativePublic = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_native", _public(self.suite, self.data))

    @classmethod
    def parse(cls, text: str) -> HpkePublicKey:
        """The key of its one-line text form.

        Raises:
            CryptoError: if the text is not such a line, or the bytes are no key of the suite.
        """
        suite, data = _split(text, "public")
        return cls(suite, data)

    @classmethod
    def read(cls, path: Path) -> HpkePublicKey:
        """The key in the file `path`.

        Raises:
            InvalidInput: if the file cannot be read.
            CryptoError: if it holds no public key.
        """
        return cls.parse(_read(path))

    @property
    def text(self) -> str:
        """`<suite> <base64>`, without a line end."""
        return _join(self.suite, self.data)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the text form, in hex: what two people compare over the telephone."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def seal(self, plaintext: bytes, *, info: bytes) -> bytes:
        """`encapsulation ‖ ciphertext ‖ tag`, fresh each time; only the private key opens it.

        Args:
            plaintext: what to protect.
            info: the context; opening it under any other fails.

        Raises:
            CryptoError: if the key is a point of small order, to which nothing can be sealed.
        """
        try:
            return self.suite._native().encrypt(plaintext, self._native, info=info)
        except ValueError as err:
            raise CryptoError(
                f"nothing can be sealed to this {self.suite.value} public key: it is degenerate. "
                "Fetch the key again from where it was made, and compare the fingerprints"
            ) from err


@dataclass(frozen=True, slots=True)
class HpkePrivateKey:
    """What opens. Its bytes stay out of `repr`, logs and messages."""

    suite: HpkeSuite
    data: bytes = field(repr=False)
    _native: _NativePrivate = field(init=False, repr=False, compare=False)
    public: HpkePublicKey = field(init=False, compare=False)

    def __post_init__(self) -> None:
        native, public = _private(self.suite, self.data)
        object.__setattr__(self, "_native", native)
        object.__setattr__(self, "public", HpkePublicKey(self.suite, public))

    @classmethod
    def generate(cls, suite: HpkeSuite = HpkeSuite.HYBRID) -> HpkePrivateKey:
        """A new key from the system's secure source."""
        return cls(suite, secrets.token_bytes(_SEED_BYTES))

    @classmethod
    def parse(cls, text: str) -> HpkePrivateKey:
        """The key of its one-line text form.

        Raises:
            CryptoError: if the text is not such a line, or the bytes are no key of the suite.
        """
        suite, data = _split(text, "private")
        return cls(suite, data)

    @classmethod
    def read(cls, path: Path) -> HpkePrivateKey:
        """The key in the file `path`.

        Raises:
            InvalidInput: if the file cannot be read.
            CryptoError: if it holds no private key.
        """
        return cls.parse(_read(path))

    @property
    def text(self) -> str:
        """`<suite> <base64>`, without a line end. Secret."""
        return _join(self.suite, self.data)

    def open(self, ciphertext: bytes, *, info: bytes) -> bytes:
        """The plaintext that was sealed to this key under `info`; by whom is not known.

        Raises:
            CryptoError: if the bytes, the key or the context are not the ones of the sealing.
        """
        try:
            return self.suite._native().decrypt(ciphertext, self._native, info=info)
        except (InvalidTag, ValueError) as err:
            raise CryptoError(
                f"{len(ciphertext)} bytes do not open with this {self.suite.value} key: they were "
                "sealed to another key, for another context, or altered since"
            ) from err


def _public(suite: HpkeSuite, data: bytes) -> _NativePublic:
    if len(data) != suite.public_bytes:
        raise CryptoError(
            f"a public key of {len(data)} bytes, but one of {suite.value} has "
            f"{suite.public_bytes}; copy it again from where it was made"
        )
    try:
        classical = x25519.X25519PublicKey.from_public_bytes(data[-_X25519_BYTES:])
        if suite is HpkeSuite.X25519:
            return classical
        lattice = mlkem.MLKEM768PublicKey.from_public_bytes(data[:_MLKEM_PUBLIC_BYTES])
    except ValueError as err:
        raise CryptoError(
            f"these bytes are no public key of {suite.value}; copy it again from where it was made"
        ) from err
    except UnsupportedAlgorithm as err:
        raise _no_mlkem() from err
    return MLKEM768X25519PublicKey(lattice, classical)


def _private(suite: HpkeSuite, data: bytes) -> tuple[_NativePrivate, bytes]:
    if len(data) != _SEED_BYTES:
        raise CryptoError(
            f"a private key of {len(data)} bytes, but one of {suite.value} has {_SEED_BYTES}; "
            "restore the file from its backup, or provision anew"
        )
    if suite is HpkeSuite.X25519:
        scalar = x25519.X25519PrivateKey.from_private_bytes(data)
        return scalar, scalar.public_key().public_bytes_raw()
    # X-Wing, section 5.2 (expandDecapsulationKey): 64 bytes d ‖ z for ML-KEM, 32 for X25519.
    expanded = hashlib.shake_256(data).digest(96)
    classical = x25519.X25519PrivateKey.from_private_bytes(expanded[64:])
    try:
        lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    except UnsupportedAlgorithm as err:
        raise _no_mlkem() from err
    public = lattice.public_key().public_bytes_raw() + classical.public_key().public_bytes_raw()
    return MLKEM768X25519PrivateKey(lattice, classical), public


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("ascii", errors="replace")
    except OSError as err:
        raise InvalidInput(
            f"{path} cannot be read ({err.strerror}). It is a key of the sealed exchange, which "
            "`fdfed-server provision` makes; a folder of an earlier version lacks it. Provision "
            "the consortium anew, into an empty folder, and hand out the folders again"
        ) from err


def _split(text: str, kind: str) -> tuple[HpkeSuite, bytes]:
    words = text.split()
    try:
        name, encoded = words
        return HpkeSuite(name), base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error) as err:
        # Never the text itself: it may be a private key in the wrong place.
        raise CryptoError(
            f"the text of {len(text)} characters is no {kind} key: it must be one line, the suite "
            f"({' or '.join(suite.value for suite in HpkeSuite)}) and the key in base64"
        ) from err


def _join(suite: HpkeSuite, data: bytes) -> str:
    return f"{suite.value} {base64.b64encode(data).decode()}"


def _no_mlkem() -> CryptoError:
    return CryptoError(
        "this installation of `cryptography` has no ML-KEM-768; install a wheel of version 50 or "
        "later, or provision the consortium with the suite x25519"
    )

"""The consortium's signing policy: whose signatures a roster needs, and how many of them.

A policy is pinned at provisioning (`consortium.pub`). It is followed by another one only if that
was signed under the one before it, so that nobody but the signers can change who signs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519
from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from fdfed.config import Frozen, SiteName, parse
from fdfed.errors import CryptoError, InvalidInput
from fdfed.files import strict_json

MAX_SIGNERS: Final = 32
_POLICY_LABEL: Final = b"fdfed signing policy 1\n"

PublicKeyHex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SignatureHex = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class Signature(Frozen):
    """One signer's Ed25519 signature."""

    signer: SiteName
    signature: SignatureHex


_SIGNATURES: Final = TypeAdapter(tuple[Signature, ...])


class SigningPolicy(Frozen):
    """Whose keys sign for the consortium, and how many of them must."""

    threshold: int = Field(ge=1)
    signers: dict[SiteName, PublicKeyHex] = Field(min_length=1, max_length=MAX_SIGNERS)
    """Name → Ed25519 public key in hexadecimal."""

    @model_validator(mode="after")
    def _check(self) -> SigningPolicy:
        if self.threshold > len(self.signers):
            raise ValueError(
                f"threshold = {self.threshold} can never be met by {len(self.signers)} signer(s)"
            )
        if len(set(self.signers.values())) < len(self.signers):
            raise ValueError("two signers have one key; it would count for both")
        return self

    @field_validator("signers")
    @classmethod
    def _are_points(cls, signers: dict[str, str]) -> dict[str, str]:
        for name, key in signers.items():
            try:
                ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
            except ValueError as err:
                raise ValueError(f"the key of {name} is no Ed25519 public key") from err
        return signers

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical text, in hexadecimal: what two people compare by telephone."""
        return hashlib.sha256(_canonical(self.model_dump())).hexdigest()

    @property
    def summary(self) -> str:
        """For people: `2 of alice, bob, carol`."""
        return f"{self.threshold} of {', '.join(self.signers)}"

    @property
    def text(self) -> str:
        """The content of `consortium.pub`."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def load(cls, path: Path) -> SigningPolicy:
        """The policy in the file `path`, as it was pinned.

        Raises:
            InvalidInput: if the file is missing or holds no policy.
        """
        try:
            text = path.read_bytes()
        except OSError as err:
            raise InvalidInput(
                f"{path} cannot be read ({err.strerror}). `fdfed-server provision` makes it; a "
                "folder of an earlier version lacks it: provision the consortium anew, into an "
                "empty folder"
            ) from err
        values = strict_json.loads(text, source=f"{path} holds no signing policy: it")
        return parse(cls, values, source=str(path))

    def verify(self, statement: bytes, signatures: Iterable[Signature], *, what: str) -> None:
        """Nothing, if enough different signers signed `statement` and nobody else did.

        Args:
            what: what was signed, for messages.

        Raises:
            CryptoError: if a signature is foreign, does not verify or comes twice, or if there are
                fewer than `threshold`.
        """
        seen: set[str] = set()
        for entry in signatures:
            key = self.signers.get(entry.signer)
            if key is None:
                raise CryptoError(
                    f"{what} is signed by {entry.signer}, who is no signer of this consortium "
                    f"({self.summary}); find out who put that signature there"
                )
            if entry.signer in seen:
                raise CryptoError(f"{what} is signed by {entry.signer} twice, which counts once")
            seen.add(entry.signer)
            _verify(key, entry, statement, what)
        if len(seen) < self.threshold:
            raise CryptoError(
                f"{what} has {len(seen)} signature(s), and the consortium's policy asks for "
                f"{self.summary}; have more signers sign it"
            )


class PolicyStep(Frozen):
    """One policy of a lineage, signed under the one before it."""

    policy: SigningPolicy
    signatures: tuple[Signature, ...] = ()
    """Empty for the first one, which is pinned and not signed."""


def sign(statement: bytes, *, signer: str, key: ed25519.Ed25519PrivateKey) -> Signature:
    """`signer`'s signature over `statement`."""
    return Signature(signer=signer, signature=key.sign(statement).hex())


def signatures_text(signatures: Sequence[Signature]) -> bytes:
    """The content of a `.sig` file."""
    return _SIGNATURES.dump_json(tuple(signatures), indent=2) + b"\n"


def parse_signatures(text: bytes, *, source: str) -> tuple[Signature, ...]:
    """The signatures in a `.sig` file.

    Raises:
        CryptoError: if it holds none that can be read, or more than any policy has signers.
    """
    try:
        found = _SIGNATURES.validate_json(text)
    except ValidationError as err:
        raise CryptoError(f"{source} holds no signatures that can be read") from err
    if len(found) > MAX_SIGNERS:
        raise CryptoError(f"{source} holds {len(found)} signatures; at most {MAX_SIGNERS} are read")
    return found


def policy_statement(lineage: str, policy: SigningPolicy) -> bytes:
    """What signers sign to have `policy` follow upon `lineage` (see `lineage_digests`)."""
    return _POLICY_LABEL + _canonical({"after": lineage, "policy": policy.model_dump()})


def lineage_digests(steps: Sequence[PolicyStep]) -> tuple[str, ...]:
    """For each policy, the digest of it and all before it.

    A signature is for a policy at its place in the lineage: one that was given when the same
    policy followed another time, or upon other ones, does not verify.
    """
    digests: list[str] = []
    for step in steps:
        chained = {"after": digests[-1] if digests else "", "policy": step.policy.digest}
        digests.append(hashlib.sha256(_canonical(chained)).hexdigest())
    return tuple(digests)


def verify_lineage(steps: Sequence[PolicyStep], pinned: SigningPolicy, *, what: str) -> None:
    """Nothing, if the last policy follows from the pinned one, each signed under the one before.

    Raises:
        CryptoError: if the pinned policy is not in the lineage, or a step lacks its signatures.
    """
    places = [number for number, step in enumerate(steps) if step.policy == pinned]
    if not places:
        raise CryptoError(
            f"{what} does not come from the consortium whose policy is pinned here "
            f"({pinned.summary}, {pinned.digest[:16]}…): it is signed under other keys. Ask "
            "whoever keeps the consortium's keys"
        )
    digests = lineage_digests(steps)
    for number in range(places[0] + 1, len(steps)):
        step, before = steps[number], steps[number - 1].policy
        statement = policy_statement(digests[number - 1], step.policy)
        before.verify(statement, step.signatures, what=f"the change of policy in {what}")


def _verify(key: str, entry: Signature, statement: bytes, what: str) -> None:
    public = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
    try:
        public.verify(bytes.fromhex(entry.signature), statement)
    except InvalidSignature as err:
        raise CryptoError(
            f"the signature of {what} by {entry.signer} is not by the consortium's key, or the "
            "text was altered since: a site added, a key exchanged, a version replayed. Fetch it "
            "anew from whoever keeps that key, and find out who changed it"
        ) from err


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

"""A released model: a folder whose files one signature vouches for.

    model.safetensors   the weights, with their header
    model-card.json     what it was trained on, how it scored, what was spent, and its limits
    model-card.md       the same, to be read
    release.json        the SHA-256 of each of these
    release.sig         Ed25519 signature of release.json, in hexadecimal

Nothing of a folder is used before all of it has been verified.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519
from pydantic import AwareDatetime, Field

from fdfed.config import Frozen, parse
from fdfed.errors import CryptoError, InvalidInput
from fdfed.files import strict_json
from fdfed.files.atomic_file import write_text

FORMAT: Final = 1
MODEL: Final = "model.safetensors"
CARD: Final = "model-card.json"
CARD_TEXT: Final = "model-card.md"
_FILES: Final = (MODEL, CARD, CARD_TEXT)
_MANIFEST: Final = "release.json"
_SIGNATURE: Final = "release.sig"
_LABEL: Final = b"fdfed model release 1\n"
_MAX_MANIFEST: Final = 1 << 20
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Release(Frozen):
    """The content of `release.json`."""

    format: Literal[1] = FORMAT
    released: AwareDatetime
    files: dict[Literal["model.safetensors", "model-card.json", "model-card.md"], _Digest]
    """SHA-256, in hexadecimal."""

    @property
    def model_sha256(self) -> str:
        """What was approved, and what the audit log of the coordinator names."""
        return self.files[MODEL]


def sign_release(folder: Path, key: ed25519.Ed25519PrivateKey) -> Release:
    """Signs the three files that lie in `folder`; the signature is written last."""
    digests = {name: file_sha256(folder / name) for name in _FILES}
    values = {"released": datetime.now(UTC), "files": digests}
    release = parse(Release, values, source=str(folder))
    text = release.model_dump_json(indent=2) + "\n"
    write_text(folder / _MANIFEST, text)
    write_text(folder / _SIGNATURE, key.sign(_LABEL + text.encode()).hex() + "\n")
    return release


def verify_release(folder: Path, *, public_key: str) -> Release:
    """The release in `folder`, if the key signed it and no file of it was changed since.

    Args:
        public_key: Ed25519, in hexadecimal; from the federation, and not from the folder.

    Raises:
        InvalidInput: if a file is missing, or the manifest is not of the agreed form.
        CryptoError: if the signature is not the key's, or a file is not the one that was signed.
    """
    text, signature = _read(folder / _MANIFEST), _read(folder / _SIGNATURE)
    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature.decode()), _LABEL + text)
    except (ValueError, InvalidSignature) as err:
        raise CryptoError(
            f"{folder} is not signed by the key {public_key[:16]}…: it was changed, or another key "
            "released it. Do not use the model; ask the federation for the release and its key"
        ) from err
    source = str(folder / _MANIFEST)
    release = parse(Release, strict_json.loads(text, source=source), source=source)
    for name in _FILES:
        if release.files.get(name) != file_sha256(folder / name):
            raise CryptoError(
                f"{folder / name} is not the file that was released; do not use it, and ask for "
                "the release again"
            )
    return release


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        InvalidInput: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise InvalidInput(f"{path} cannot be read ({err.strerror}); a release has it") from err


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_MANIFEST)
    except OSError as err:
        raise InvalidInput(
            f"{path} cannot be read ({err.strerror}); the folder is no release of "
            "`fdfed-server release`, or not all of it was copied"
        ) from err

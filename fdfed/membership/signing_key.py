"""An Ed25519 key in a file of its owner: of a site, a coordinator or a signer of the roster."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.errors import CryptoError, InvalidInput
from fdfed.files.private_file import line, write_private


def write_signing_key(path: Path, key: ed25519.Ed25519PrivateKey) -> None:
    """Keeps a key in a new file that only its owner can read.

    Raises:
        FileExistsError: if there is one already.
    """
    write_private(path, line(key.private_bytes_raw().hex()))


def read_signing_key(path: Path, *, whence: str) -> ed25519.Ed25519PrivateKey:
    """The key in the file `path`.

    Args:
        whence: what the key is for and what makes it, for the message if it is missing.

    Raises:
        InvalidInput: if the file is missing.
        CryptoError: if it holds no key.
    """
    try:
        return ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text()))
    except OSError as err:
        raise InvalidInput(f"{path} cannot be read ({err.strerror}); {whence}") from err
    except ValueError as err:
        raise CryptoError(f"{path} holds no Ed25519 key in hexadecimal; restore it") from err

"""Every error that a user or an operator can act on, and the exit code each becomes.

A message says what was found, which condition it breaks, and what to do next. Anything that is
not an `FdfedError` is our own bug and keeps its traceback.
"""

from __future__ import annotations

from typing import ClassVar, Final

EXIT_DONE: Final = 0
EXIT_BUG: Final = 1
EXIT_INTERRUPTED: Final = 130


class FdfedError(Exception):
    """Base of all errors that are the user's to solve. `exit_code` is the command's status."""

    exit_code: ClassVar[int] = EXIT_BUG


class InvalidInput(FdfedError, ValueError):
    """An argument or a configuration value breaks a stated condition."""

    exit_code = 2


class DataError(FdfedError):
    """A site's images or masks cannot be used as they are; lists every finding at once."""

    exit_code = 3


class ConnectionFailed(FdfedError):
    """The coordinator cannot be reached, or one side does not accept the other's identity."""

    exit_code = 4


class CryptoError(ConnectionFailed):
    """A certificate, key, signature or ciphertext does not verify. Plaintext is no fallback."""


class WireError(ConnectionFailed):
    """A message from the other side is not of the agreed form."""


class RefusedByPolicy(FdfedError):
    """The site's own policy forbids what was asked."""

    exit_code = 5


class QuorumNotMet(FdfedError):
    """Fewer sites' weights entered a round than the quorum, after every attempt."""

    exit_code = 4


class PrivacyBudgetExceeded(FdfedError):
    """The next release would spend more than the privacy budget."""

    exit_code = 6


class StorageFailed(FdfedError):
    """A disk is full, or may not be written."""

    exit_code = 7

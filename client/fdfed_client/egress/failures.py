"""What a coordinator is told when a message could not be answered: one of a few fixed sentences.

The text of an exception may hold a path, a patient's name or a value; even its class may be made
by a library. So neither leaves; the site's own log has both.
"""

from __future__ import annotations

from typing import Final

from fdfed import errors
from fdfed_client.drain import AgentStopped
from fdfed_client.egress.policy import RULES, PolicyRefusal

_SENTENCES: Final[dict[type[BaseException], str]] = {
    errors.DataError: "its images cannot be used for this plan",
    errors.RefusedByPolicy: "its own policy forbids it",
    errors.PrivacyBudgetExceeded: "its privacy budget is spent",
    errors.CryptoError: "a key, signature or ciphertext did not verify",
    errors.WireError: "the message was not of the agreed form",
    errors.ConnectionFailed: "it could not reach the exchange, or was not accepted there",
    errors.InvalidInput: "the plan or its own configuration cannot be used",
    errors.StorageFailed: "its disk is full, or cannot be written",
    AgentStopped: "its agent was told to stop, and comes back when it is started again",
    errors.FdfedError: "it could not do what was asked",
}
_FAULT: Final = "InternalError: the agent has a fault"
_MORE: Final = "; its log says more"


def public_reason(error: BaseException) -> str:
    """The sentence for `error`: by the nearest class of our own above it, else that there is a
    fault."""
    for kind in type(error).__mro__:
        sentence = _SENTENCES.get(kind)
        if sentence is None:
            continue
        if isinstance(error, PolicyRefusal) and error.rule in RULES:
            sentence = f"{sentence} (rule {error.rule})"
        return f"{kind.__name__}: {sentence}{_MORE}"
    return _FAULT + _MORE


def is_public(reason: str) -> bool:
    """Whether `public_reason` makes this sentence for some error."""
    return reason in _ALL


_ALL: Final = frozenset(
    {
        _FAULT + _MORE,
        *(f"{kind.__name__}: {sentence}{_MORE}" for kind, sentence in _SENTENCES.items()),
        *(public_reason(PolicyRefusal(rule, "")) for rule in RULES),
    }
)

"""The coordinator's signature under a run plan: who asks, and that nobody changed what is asked.

The key is not that of the coordinator's certificate: whoever ends TLS for it holds that one too.
Its public half is in the roster, which the consortium signs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.config import RunPlan
from fdfed.errors import CryptoError
from fdfed.membership.signing_key import read_signing_key

_LABEL: Final = b"fdfed run plan 1\n"


def sign_plan(plan: RunPlan, key: ed25519.Ed25519PrivateKey) -> str:
    """The signature of the plan's canonical JSON, in hexadecimal."""
    return key.sign(_LABEL + plan.to_json().encode()).hex()


def check_plan_signature(plan: RunPlan, signature: str, *, public_key: str | None) -> None:
    """Whether the coordinator signed this very plan.

    Args:
        public_key: in hexadecimal, from the roster; None where the roster names none.

    Raises:
        CryptoError: if it did not, or there is no key to tell by.
    """
    if public_key is None:
        raise CryptoError(
            "the roster names no key that signs run plans (plan_key), so no plan can be believed. "
            "Ask for a roster of today's provisioning, or set require_signed_plan = false under "
            "[policy] in site.toml, for a trial without patients"
        )
    if not signature:
        raise CryptoError(
            "the coordinator sent a run plan without a signature, and require_signed_plan is on; "
            "its server folder needs plan.key, as `fdfed-server provision` makes it"
        )
    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), _LABEL + plan.to_json().encode())
    except (ValueError, InvalidSignature) as err:
        raise CryptoError(
            f"the run plan {plan.digest[:16]}… is not signed by the key {public_key[:16]}… that "
            "the roster names: it was changed on the way, another coordinator made it, or the two "
            "sides run different versions of fdfed. Nothing is trained for it"
        ) from err


def read_plan_key(path: Path) -> ed25519.Ed25519PrivateKey:
    """The coordinator's key in the file `path`.

    Raises:
        InvalidInput: if the file is missing.
        CryptoError: if it holds no key.
    """
    return read_signing_key(
        path,
        whence="it signs the run plan, and `fdfed-server provision` makes it. A folder of an "
        "earlier version lacks it: provision anew",
    )

"""What a roster's entry may be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fdfed.errors import InvalidInput
from fdfed.membership.roster import MAX_ROSTER, RetiringCertificate, Roster, SignedRoster
from tests.fuzz.parties import POLICY, ROSTER

ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(b"n" * 32).public_key()
COMPRESSED = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBB0sXfGLhLEJH+Lzm5WOk"
    "QPJ3A32BLeszoPShOUXYmMKWT+NC4v4af5uO5+tKfA+eFivOM1drMV7Oy7ZAaDe/UfU="
)
"""Found by the fuzzer: a point whose first byte says that it is compressed."""


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "is not an OpenSSH public key"),
        ("ssh-dss AAAA", "is not an OpenSSH public key"),
        ("\ud800", "is not an OpenSSH public key"),
        (COMPRESSED, "is not an OpenSSH public key"),
        (
            ED25519.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
            "is not an elliptic-curve key",
        ),
    ],
    ids=["empty", "cut", "surrogate", "compressed", "ed25519"],
)
def test_a_node_key_that_flower_cannot_use_is_refused(key: str, reason: str) -> None:
    values = json.loads(ROSTER.text)
    values["sites"]["ad"]["node_public_key"] = key
    with pytest.raises(InvalidInput, match=reason):
        Roster.parse_text(json.dumps(values).encode(), source=Path("roster.json"))


def test_a_certificate_that_retires_is_taken_beside_the_new_one() -> None:
    old = RetiringCertificate(certificate_sha256="0" * 64, certificate_serial="ab")
    site = ROSTER.sites["ad"].model_copy(update={"retiring": old})
    assert site.has_certificate(sha256="0" * 64, serial="ab")
    assert site.has_certificate(sha256=site.certificate_sha256, serial=site.certificate_serial)
    assert not site.has_certificate(sha256="0" * 64, serial=site.certificate_serial)


def test_a_roster_beyond_any_size_is_refused_unread() -> None:
    with pytest.raises(InvalidInput, match=f"at most {MAX_ROSTER} are read"):
        SignedRoster.verify(bytes(MAX_ROSTER + 1), b"", pinned=POLICY, source="the roster")


def test_a_roster_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"roster\.json does not exist"):
        Roster.load(tmp_path / "roster.json")

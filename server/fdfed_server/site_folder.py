"""What is written for one hospital: an enrolment pack without any key, or, by a trusted dealer, a
whole folder."""

from __future__ import annotations

import secrets
from pathlib import Path

import tomli_w
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fdfed.exchange.hpke import HpkePrivateKey, HpkePublicKey
from fdfed.files.private_file import line, write_private
from fdfed.membership.consortium import SigningPolicy
from fdfed.membership.enrolment import Invitation
from fdfed.membership.roster import SiteIdentity
from fdfed.membership.signing_key import write_signing_key
from fdfed_server.certificates import Authority, private_pem
from fdfed_server.config import ServerConfig


def write_pack(
    folder: Path,
    name: str,
    *,
    authority_pem: bytes,
    server: ServerConfig,
    policy: SigningPolicy,
    server_hpke: HpkePublicKey,
) -> Invitation:
    """Writes the enrolment pack of the site `name`; returns its invitation.

    Args:
        policy: what the site pins, so that it is the consortium's newest.
    """
    token = secrets.token_hex(32)
    _write_common(
        folder,
        name,
        authority_pem=authority_pem,
        server=server,
        policy=policy,
        server_hpke=server_hpke,
    )
    invitation = Invitation(site=name, token=token)
    write_private(folder / "invitation.json", line(invitation.model_dump_json()))
    return invitation


def write_dealt(
    folder: Path,
    name: str,
    *,
    authority: Authority,
    server: ServerConfig,
    policy: SigningPolicy,
    server_hpke: HpkePublicKey,
    days: int,
) -> SiteIdentity:
    """Writes the folder of a site with keys made here; returns what the others may know of it."""
    key, node_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    certificate = authority.issue_site(key.public_key(), site=name, days=days)
    _write_common(
        folder,
        name,
        authority_pem=authority.certificate.public_bytes(Encoding.PEM),
        server=server,
        policy=policy,
        server_hpke=server_hpke,
    )
    write_private(folder / "site.pem", certificate.public_bytes(Encoding.PEM))
    write_private(folder / "site.key", private_pem(key))
    openssh = node_key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_private(folder / "node.key", openssh)
    hpke_key = HpkePrivateKey.generate(server_hpke.suite)
    write_private(folder / "hpke.key", line(hpke_key.text))
    signing_key = ed25519.Ed25519PrivateKey.generate()
    write_signing_key(folder / "signing.key", signing_key)
    public = node_key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return SiteIdentity(
        node_public_key=public.decode(),
        certificate_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        certificate_serial=f"{certificate.serial_number:x}",
        certificate_expires=certificate.not_valid_after_utc,
        hpke_public_key=hpke_key.public.text,
        signing_public_key=signing_key.public_key().public_bytes_raw().hex(),
    )


def _write_common(
    folder: Path,
    name: str,
    *,
    authority_pem: bytes,
    server: ServerConfig,
    policy: SigningPolicy,
    server_hpke: HpkePublicKey,
) -> None:
    write_private(folder / "ca.pem", authority_pem)
    write_private(folder / "consortium.pub", policy.text.encode())
    write_private(folder / "server-hpke.pub", line(server_hpke.text))
    settings = {
        "site": name,
        "server": server.hosts[0],
        "fleet_port": server.fleet_port,
        "exchange_port": server.exchange_port,
        "ca": "ca.pem",
        "certificate": "site.pem",
        "key": "site.key",
        "node_key": "node.key",
        "hpke_key": "hpke.key",
        "server_hpke_key": "server-hpke.pub",
        "state": "state",
    }
    write_private(folder / "site.toml", tomli_w.dumps(settings).encode())

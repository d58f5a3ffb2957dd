"""The consortium's keys, certificates and configuration files: one folder for each party.

    OUT/consortium/    ca.pem, ca.key           the authority; keep it offline, or at one hospital
                       consortium.key           signs the roster; never at the coordinator
                       server-hpke.pub          what every site pins, also one that is added later
    OUT/server/        ca.pem, server.pem, server.key, hpke.key, federation.toml
    OUT/sites/<site>/  ca.pem, site.pem, site.key, node.key, hpke.key, signing.key, server-hpke.pub,
                       site.toml
    all of them        roster.json, roster.sig, consortium.pub

The coordinator could enrol a puppet site if it signed the roster; so it does not, and each site
verifies its own copy. A site has four keys. `site.key` with `site.pem` is its X.509 identity on the
exchange (mutual TLS); `node.key` signs its Flower requests; to `hpke.key` the other sites seal what
the coordinator must not read, and `signing.key` shows them who sealed it. The roster says which
belong to whom. The coordinator's `hpke.key` opens what the sites seal to it; its public half is in
each site's folder, so that nothing is trusted on first use.

Who runs this holds every private key for a moment, the sites' included: it is a trusted dealer, and
the folders must then travel to their owners by a safe way. A later version makes the site's keys at
the site, and only signs a request here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import tomli_w
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fdfed.config import Frozen, SiteName, parse, read_toml
from fdfed.consortium import PolicyStep, SigningPolicy
from fdfed.errors import CryptoError, InvalidInput
from fdfed.exchange.hpke import HpkePrivateKey, HpkePublicKey, HpkeSuite
from fdfed.roster import SignedRoster, sign_roster
from fdfed_server.certificates import Authority, private_pem
from fdfed_server.config import FederationConfig, Roster, ServerConfig, SiteIdentity

_LOOPBACK: Final = ("localhost", "127.0.0.1")
"""Always in the server's certificate: the coordinator verifies its own SuperLink there."""


class _Options(Frozen):
    """What the caller chose, checked before a file is written."""

    sites: tuple[SiteName, ...]
    server: ServerConfig
    days: int


def provision(
    sites: Sequence[str],
    out: Path,
    *,
    hosts: Sequence[str] = _LOOPBACK,
    fleet_port: int = 8443,
    exchange_port: int = 8444,
    control_port: int = 8445,
    days: int = 365,
    hpke_suite: HpkeSuite = HpkeSuite.HYBRID,
) -> None:
    """Writes a new consortium into the folder `out`, which may exist but holds none yet.

    Args:
        sites: names of the hospitals; more can be added later with `provision_site`.
        out: gains `consortium/`, `server/` and `sites/`, all readable by their owner only.
        hosts: names and addresses of the coordinator as the sites see it; the first is written
            into each `site.toml`.
        days: how long the certificates are valid.
        hpke_suite: of all HPKE keys, the coordinator's and the sites'.

    Raises:
        InvalidInput: if a name, port or host is wrong, or `out` already holds a consortium.
    """
    ports = {"fleet_port": fleet_port, "exchange_port": exchange_port, "control_port": control_port}
    options = _check(sites, {"hosts": list(hosts), **ports}, days)
    for name in ("consortium", "server", "sites"):
        if (out / name).exists():
            raise InvalidInput(
                f"{out / name} exists and is not overwritten: its keys would be lost. Give another "
                "folder, or add a site to the consortium that is there"
            )
    authority = Authority.create(days=days)
    hpke_key = HpkePrivateKey.generate(hpke_suite)
    _write_server(out / "server", authority, options, hpke_key)
    _write(out / "consortium" / "ca.pem", _public_pem(authority))
    _write(out / "consortium" / "ca.key", private_pem(authority.key))
    _write(out / "consortium" / "server-hpke.pub", _line(hpke_key.public.text))
    identities = {
        site: _write_site(
            out / "sites" / site,
            site,
            authority,
            options.server,
            days=days,
            server_hpke=hpke_key.public,
        )
        for site in options.sites
    }
    consortium_key = ed25519.Ed25519PrivateKey.generate()
    _write(out / "consortium" / "consortium.key", _line(consortium_key.private_bytes_raw().hex()))
    policy = _policy_of(consortium_key)
    for folder in _folders(out, identities):
        _write(folder / "consortium.pub", policy.text.encode())
    _publish(out, Roster(sites=identities, policies=(PolicyStep(policy=policy),)), consortium_key)


def provision_site(name: str, out: Path, *, days: int = 365) -> None:
    """Adds the site `name` to the consortium in the folder `out`: its own folder, its entry in the
    roster, and its name in `[run] sites` (comments in `federation.toml` are lost).

    The coordinator reads both files when it starts, so the site is let in from its next start. The
    new `roster.json` and `roster.sig` are written into every folder below `out`, and must reach the
    other sites too: they take part with nobody who has another roster.

    Raises:
        InvalidInput: if the name is wrong or taken, or `out` holds no consortium.
        CryptoError: if the authority's key and certificate do not belong together, or the
            coordinator's public HPKE key cannot be read.
    """
    server, folder = out / "server", out / "sites" / name
    config = FederationConfig.load(server / "federation.toml")
    vault = out / "consortium"
    roster = SignedRoster.load(vault / "roster.json", public_key=vault / "consortium.pub").roster
    consortium_key = _consortium_key(vault / "consortium.key")
    options = _check([name], config.server.model_dump(), days)
    if name in roster.sites or folder.exists():
        raise InvalidInput(
            f"site {name} already exists in {out}, and its keys are not overwritten; choose "
            "another name, or remove its folder and its entry in roster.json first"
        )
    authority = Authority.load(out / "consortium")
    # The consortium's copy, not the coordinator's: what a site pins is not the coordinator's say.
    server_hpke = HpkePublicKey.read(out / "consortium" / "server-hpke.pub")
    identity = _write_site(
        folder, name, authority, options.server, days=days, server_hpke=server_hpke
    )
    tables = read_toml(server / "federation.toml")
    tables.setdefault("run", {})["sites"] = [*config.run.sites, name]
    _replace(server / "federation.toml", tomli_w.dumps(tables).encode())
    _write(folder / "consortium.pub", roster.policies[-1].policy.text.encode())
    changed = {"sites": {**roster.sites, name: identity}, "version": roster.version + 1}
    _publish(out, roster.model_copy(update=changed), consortium_key)


def _folders(out: Path, sites: Iterable[str]) -> list[Path]:
    return [out / "consortium", out / "server", *(out / "sites" / site for site in sites)]


def _publish(out: Path, roster: Roster, key: ed25519.Ed25519PrivateKey) -> None:
    """Writes roster and signature into the folder of every party that is still here."""
    text = roster.text
    for folder in _folders(out, roster.sites):
        # A site's folder may have gone to its hospital already; its roster must follow it.
        if folder.exists():
            _replace(folder / "roster.json", text)
            _replace(folder / "roster.sig", sign_roster(text, key))


def _policy_of(key: ed25519.Ed25519PrivateKey) -> SigningPolicy:
    """The policy of a consortium with one signer."""
    public = key.public_key().public_bytes_raw().hex()
    return SigningPolicy(threshold=1, signers={"consortium": public})


def _consortium_key(path: Path) -> ed25519.Ed25519PrivateKey:
    try:
        return ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text()))
    except FileNotFoundError as err:
        raise InvalidInput(
            f"{path} does not exist; a roster can only be signed where the consortium's key is"
        ) from err
    except ValueError as err:
        raise CryptoError(f"{path} holds no Ed25519 key in hexadecimal; restore it") from err


def _check(sites: Sequence[str], server: dict[str, Any], days: int) -> _Options:
    values = {"sites": list(sites), "server": server, "days": days}
    options = parse(_Options, values, source="the options of provision")
    if len(set(options.sites)) != len(options.sites):
        raise InvalidInput(f"sites {', '.join(sites)}: one name is there twice; name each once")
    if days < 1:
        raise InvalidInput(f"days is {days}; a certificate must be valid for at least one day")
    return options


def _write_server(
    folder: Path, authority: Authority, options: _Options, hpke_key: HpkePrivateKey
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue_server(
        key.public_key(),
        hosts=tuple(dict.fromkeys((*options.server.hosts, *_LOOPBACK))),
        days=options.days,
    )
    _write(folder / "ca.pem", _public_pem(authority))
    _write(folder / "server.pem", certificate.public_bytes(Encoding.PEM))
    _write(folder / "server.key", private_pem(key))
    _write(folder / "hpke.key", _line(hpke_key.text))
    tables = {
        "server": options.server.model_dump(mode="json"),
        "run": {"sites": list(options.sites)},
    }
    _write(folder / "federation.toml", tomli_w.dumps(tables).encode())


def _write_site(
    folder: Path,
    name: str,
    authority: Authority,
    server: ServerConfig,
    *,
    days: int,
    server_hpke: HpkePublicKey,
) -> SiteIdentity:
    """Writes the folder of one site; returns what the coordinator may know of it."""
    key, node_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    certificate = authority.issue_site(key.public_key(), site=name, days=days)
    _write(folder / "ca.pem", _public_pem(authority))
    _write(folder / "site.pem", certificate.public_bytes(Encoding.PEM))
    _write(folder / "site.key", private_pem(key))
    openssh = node_key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    _write(folder / "node.key", openssh)
    hpke_key = HpkePrivateKey.generate(server_hpke.suite)
    _write(folder / "hpke.key", _line(hpke_key.text))
    _write(folder / "server-hpke.pub", _line(server_hpke.text))
    signing_key = ed25519.Ed25519PrivateKey.generate()
    _write(folder / "signing.key", _line(signing_key.private_bytes_raw().hex()))
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
    _write(folder / "site.toml", tomli_w.dumps(settings).encode())
    public = node_key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return SiteIdentity(
        node_public_key=public.decode(),
        certificate_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        certificate_serial=f"{certificate.serial_number:x}",
        certificate_expires=certificate.not_valid_after_utc,
        hpke_public_key=hpke_key.public.text,
        signing_public_key=signing_key.public_key().public_bytes_raw().hex(),
    )


def _public_pem(authority: Authority) -> bytes:
    return authority.certificate.public_bytes(Encoding.PEM)


def _line(text: str) -> bytes:
    return f"{text}\n".encode()


def _write(path: Path, content: bytes) -> None:
    """Writes a new file that only its owner can read, in a folder that only its owner can enter."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    # Created with its final mode: a later chmod would leave a moment in which others can open it.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    _write(fresh, content)
    fresh.replace(path)

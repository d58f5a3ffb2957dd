"""A new consortium: its keys, the coordinator's folder, and one folder for each hospital.

    OUT/consortium/    the authority, the roster and its drafts (`vault.py`); keep it offline, or at
                       one hospital
    OUT/signers/       NAME.key, where several sign: each goes to that person and stays nowhere else
    OUT/server/        ca.pem, server.pem, server.key, hpke.key, plan.key,
                       federation.toml
    OUT/sites/<site>/  an enrolment pack: ca.pem, consortium.pub, server-hpke.pub, site.toml,
                       invitation.json. No key: `fdfed-client enrol` makes them at the hospital
    server and sites   roster.json, roster.sig, consortium.pub

The coordinator could enrol a puppet site if it signed the roster; so it does not, and each site
verifies its own copy. A site has four keys. `site.key` with `site.pem` is its X.509 identity on the
exchange (mutual TLS); `node.key` signs its Flower requests; to `hpke.key` the other sites seal what
the coordinator must not read, and `signing.key` shows them who sealed it. The roster says which
belong to whom. The coordinator's `hpke.key` opens what the sites seal to it; its public half is in
each site's folder, so that nothing is trusted on first use.

With `with_site_keys` the sites' keys are made here too: whoever runs this is then a trusted dealer,
who holds every private key for a moment. For trials on one machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import tomli_w
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from fdfed.config import Frozen, SiteName, parse
from fdfed.errors import InvalidInput
from fdfed.exchange.hpke import HpkePrivateKey, HpkePublicKey, HpkeSuite
from fdfed.files.private_file import line, write_private
from fdfed.membership.consortium import PolicyStep, SigningPolicy
from fdfed.membership.roster import Roster, SiteIdentity
from fdfed.membership.signing_key import write_signing_key
from fdfed_server.certificates import Authority, private_pem
from fdfed_server.config import FederationConfig, ServerConfig
from fdfed_server.handing_out import hand_out, hand_out_invitations
from fdfed_server.roster_change import add_signature, publish
from fdfed_server.site_folder import write_dealt, write_pack
from fdfed_server.vault import SIGNER_KEY, Vault, read_signer_key

_LOOPBACK: Final = ("localhost", "127.0.0.1")
"""Always in the server's certificate: the coordinator verifies its own SuperLink there."""
_ONE_SIGNER: Final = "consortium"


class _Options(Frozen):
    """What the caller chose, checked before a file is written."""

    sites: tuple[SiteName, ...]
    signers: tuple[SiteName, ...]
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
    signers: Sequence[str] = (_ONE_SIGNER,),
    threshold: int = 1,
    with_site_keys: bool = True,
) -> None:
    """Writes a new consortium into the folder `out`, which may exist but holds none yet.

    Args:
        sites: names of the hospitals; more can be added later.
        out: gains `consortium/`, `server/` and `sites/`, all readable by their owner only.
        hosts: names and addresses of the coordinator as the sites see it; the first is written
            into each `site.toml`.
        days: how long the certificates are valid.
        hpke_suite: of all HPKE keys, the coordinator's and the sites'.
        signers: whose signatures count for the consortium; a key is made for each.
        threshold: how many of them a roster needs.
        with_site_keys: be a trusted dealer, and make the sites' keys here; else write enrolment
            packs, and a roster that lists nobody yet.

    Raises:
        InvalidInput: if a name, port or host is wrong, or `out` already holds a consortium.
    """
    ports = {"fleet_port": fleet_port, "exchange_port": exchange_port, "control_port": control_port}
    options = _check(sites, {"hosts": list(hosts), **ports}, days, signers)
    keys = {name: ed25519.Ed25519PrivateKey.generate() for name in options.signers}
    public = {name: key.public_key().public_bytes_raw().hex() for name, key in keys.items()}
    policy = parse(
        SigningPolicy,
        {"threshold": threshold, "signers": public},
        source="the signers of provision",
    )
    for name in ("consortium", "signers", "server", "sites"):
        if (out / name).exists():
            raise InvalidInput(
                f"{out / name} exists and is not overwritten: its keys would be lost. Give another "
                "folder, or add a site to the consortium that is there"
            )
    authority = Authority.create(days=days)
    hpke_key = HpkePrivateKey.generate(hpke_suite)
    _write_server(out / "server", authority, options, hpke_key, policy)
    vault = _write_vault(out, authority, hpke_key.public, policy, keys)
    identities = _write_sites(vault, authority, options, hpke_key.public, out, dealt=with_site_keys)
    plan_key = ed25519.Ed25519PrivateKey.generate()
    write_signing_key(out / "server" / "plan.key", plan_key)
    roster = Roster(
        sites=identities,
        policies=(PolicyStep(policy=policy),),
        plan_key=plan_key.public_key().public_bytes_raw().hex(),
    )
    vault.put_draft(roster)
    for key in list(keys.values())[:threshold]:
        add_signature(vault, key)
    hand_out(vault, publish(vault), out)


def provision_site(name: str, out: Path, *, days: int = 365, with_site_keys: bool = True) -> None:
    """Adds the site `name` to the consortium in the folder `out`: an enrolment pack, or, as a
    trusted dealer, its whole folder, its entry in the roster, and its name in `[run] sites`
    (comments in `federation.toml` are lost).

    A running coordinator takes the roster up and brings it to the other sites; the new site takes
    part from the coordinator's next start.

    Raises:
        InvalidInput: if the name is wrong or taken, or `out` holds no consortium.
        CryptoError: if the authority's key and certificate do not belong together, or the
            coordinator's public HPKE key cannot be read.
    """
    folder, vault = out / "sites" / name, Vault(out / "consortium")
    config = FederationConfig.load(out / "server" / "federation.toml")
    options = _check([name], config.server.model_dump(), days, (_ONE_SIGNER,))
    roster = vault.roster
    if name in roster.sites or folder.exists():
        raise InvalidInput(
            f"site {name} already exists in {out}, and its keys are not overwritten; choose "
            "another name, or remove its folder and its entry in the roster first"
        )
    # The consortium's copy, not the coordinator's: what a site pins is not the coordinator's say.
    server_hpke = HpkePublicKey.read(vault.folder / "server-hpke.pub")
    if not with_site_keys:
        authority_pem = (vault.folder / "ca.pem").read_bytes()
        invitation = write_pack(
            folder,
            name,
            authority_pem=authority_pem,
            server=options.server,
            policy=roster.policies[-1].policy,
            server_hpke=server_hpke,
        )
        vault.put_invitation(invitation)
        hand_out_invitations(vault, out)
        return
    keys = _keys_at_hand(out)
    authority = Authority.load(vault.folder)
    identity = write_dealt(
        folder,
        name,
        authority=authority,
        server=options.server,
        policy=roster.policies[-1].policy,
        server_hpke=server_hpke,
        days=days,
    )
    changed = {"sites": {**roster.sites, name: identity}, "version": roster.version + 1}
    vault.put_draft(roster.model_copy(update=changed))
    for key in keys:
        add_signature(vault, key)
    hand_out(vault, publish(vault), out, before=roster.sites)


def _keys_at_hand(out: Path) -> list[ed25519.Ed25519PrivateKey]:
    """The signers' keys that lie below `out`, as they do with a trusted dealer."""
    paths = sorted((out / "signers").glob("*.key")) or [out / "consortium" / SIGNER_KEY]
    return [read_signer_key(path) for path in paths]


def _check(
    sites: Sequence[str], server: dict[str, Any], days: int, signers: Sequence[str]
) -> _Options:
    values = {"sites": list(sites), "signers": list(signers), "server": server, "days": days}
    options = parse(_Options, values, source="the options of provision")
    for what, names in (("sites", options.sites), ("signers", options.signers)):
        if len(set(names)) != len(names):
            raise InvalidInput(
                f"{what} {', '.join(names)}: one name is there twice; name each once"
            )
    if days < 1:
        raise InvalidInput(f"days is {days}; a certificate must be valid for at least one day")
    return options


def _write_server(
    folder: Path,
    authority: Authority,
    options: _Options,
    hpke_key: HpkePrivateKey,
    policy: SigningPolicy,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue_server(
        key.public_key(),
        hosts=tuple(dict.fromkeys((*options.server.hosts, *_LOOPBACK))),
        days=options.days,
    )
    write_private(folder / "ca.pem", _public_pem(authority))
    write_private(folder / "server.pem", certificate.public_bytes(Encoding.PEM))
    write_private(folder / "server.key", private_pem(key))
    write_private(folder / "hpke.key", line(hpke_key.text))
    write_private(folder / "consortium.pub", policy.text.encode())
    tables = {
        "server": options.server.model_dump(mode="json"),
        "run": {"sites": list(options.sites)},
    }
    write_private(folder / "federation.toml", tomli_w.dumps(tables).encode())


def _write_vault(
    out: Path,
    authority: Authority,
    server_hpke: HpkePublicKey,
    policy: SigningPolicy,
    keys: dict[str, ed25519.Ed25519PrivateKey],
) -> Vault:
    folder = out / "consortium"
    write_private(folder / "ca.pem", _public_pem(authority))
    write_private(folder / "ca.key", private_pem(authority.key))
    write_private(folder / "server-hpke.pub", line(server_hpke.text))
    write_private(folder / "consortium.pub", policy.text.encode())
    for name, key in keys.items():
        alone = len(keys) == 1
        write_signing_key(folder / SIGNER_KEY if alone else out / "signers" / f"{name}.key", key)
    return Vault(folder)


def _write_sites(
    vault: Vault,
    authority: Authority,
    options: _Options,
    server_hpke: HpkePublicKey,
    out: Path,
    *,
    dealt: bool,
) -> dict[str, SiteIdentity]:
    """Writes a folder for each site; returns the entries of those whose keys were made here."""
    identities: dict[str, SiteIdentity] = {}
    for site in options.sites:
        folder = out / "sites" / site
        common: Any = {
            "server": options.server,
            "policy": vault.pinned,
            "server_hpke": server_hpke,
        }
        if dealt:
            identities[site] = write_dealt(
                folder, site, authority=authority, days=options.days, **common
            )
        else:
            pack = write_pack(folder, site, authority_pem=_public_pem(authority), **common)
            vault.put_invitation(pack)
    return identities


def _public_pem(authority: Authority) -> bytes:
    return authority.certificate.public_bytes(Encoding.PEM)

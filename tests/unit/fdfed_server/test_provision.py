"""Provisioning: what is written, who may read it, and who it lets in."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import tomllib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from fdfed.errors import CryptoError, InvalidInput
from fdfed.exchange import HpkePrivateKey, HpkePublicKey, HpkeSuite
from fdfed_client.config import SiteConfig
from fdfed_server.config import FederationConfig, Roster
from fdfed_server.provision import provision, provision_site


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("consortium")
    provision(["udiat", "busi"], out, hosts=("localhost", "fed.example.org", "10.0.0.7"))
    return out


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_each_party_gets_its_folder_and_nobody_elses_private_key(consortium: Path) -> None:
    found = {
        str(folder.relative_to(consortium)): {file.name for file in folder.iterdir()}
        for folder in (consortium / n for n in ("consortium", "server", "sites/udiat"))
    }
    signed = ("roster.json", "roster.sig", "consortium.pub")
    assert found == {
        "consortium": {"ca.pem", "ca.key", "consortium.key", "server-hpke.pub", *signed},
        "server": {
            "ca.pem",
            "server.pem",
            "server.key",
            "hpke.key",
            "plan.key",
            "federation.toml",
            *signed,
        },
        "sites/udiat": {
            "ca.pem",
            "site.pem",
            "site.key",
            "node.key",
            "hpke.key",
            "signing.key",
            "server-hpke.pub",
            "site.toml",
            *signed,
        },
    }


def test_only_the_owner_can_read_files_and_enter_folders(consortium: Path) -> None:
    for path in (consortium, *consortium.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_roster_holds_each_sites_public_key_fingerprint_and_serial(consortium: Path) -> None:
    roster = Roster.load(consortium / "server" / "roster.json")
    assert set(roster.sites) == {"udiat", "busi"}
    folder = consortium / "sites" / "udiat"
    key = load_ssh_private_key((folder / "node.key").read_bytes(), None)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    certificate = _certificate(folder / "site.pem")
    entry = roster.sites["udiat"]
    assert entry.node_public_key == public.decode()
    assert entry.certificate_sha256 == certificate.fingerprint(hashes.SHA256()).hex()
    assert int(entry.certificate_serial, 16) == certificate.serial_number
    assert entry.certificate_expires == certificate.not_valid_after_utc


def test_certificates_chain_to_the_authority_by_the_web_profile(consortium: Path) -> None:
    store = Store([_certificate(consortium / "consortium" / "ca.pem")])
    server = _certificate(consortium / "server" / "server.pem")
    for host in ("localhost", "fed.example.org"):
        PolicyBuilder().store(store).build_server_verifier(x509.DNSName(host)).verify(server, [])


def test_a_sites_certificate_carries_its_name_and_is_for_clients_only(consortium: Path) -> None:
    certificate = _certificate(consortium / "sites" / "busi" / "site.pem")
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert name.value == "busi"
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def _handshake(server: Path, client: ssl.SSLContext, host: str) -> str:
    """The common name that the server sees after mutual TLS over a socket pair."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=server / "ca.pem")
    context.load_cert_chain(server / "server.pem", server / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    near, far = socket.socketpair()
    names: list[str] = []

    def serve() -> None:
        with near, context.wrap_socket(near, server_side=True) as tls:
            subject = dict(pair for (pair,) in tls.getpeercert()["subject"])
            names.append(subject["commonName"])
            tls.sendall(b"x")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with far, client.wrap_socket(far, server_hostname=host) as tls:
            tls.recv(1)
    finally:
        thread.join(5)
    return names[0]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "10.0.0.7", "fed.example.org"])
def test_mutual_tls_works_under_every_host_and_names_the_site(consortium: Path, host: str) -> None:
    site = SiteConfig.load(consortium / "sites" / "udiat" / "site.toml")
    context = ssl.create_default_context(cafile=site.ca)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(site.certificate, site.key)
    assert _handshake(consortium / "server", context, host) == "udiat"


def test_the_files_load_as_configuration_with_paths_beside_them(consortium: Path) -> None:
    federation = FederationConfig.load(consortium / "server" / "federation.toml")
    assert federation.run.sites == ("udiat", "busi")
    assert federation.server.roster == (consortium / "server" / "roster.json").resolve()
    assert federation.server.state == (consortium / "server" / "state").resolve()
    site = SiteConfig.load(consortium / "sites" / "busi" / "site.toml")
    assert (site.site, site.fleet_address) == ("busi", "localhost:8443")
    assert site.node_key.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    assert site.data is None


def test_every_site_pins_the_coordinators_hpke_key_and_the_roster_lists_each_sites_own(
    consortium: Path,
) -> None:
    server = FederationConfig.load(consortium / "server" / "federation.toml").server
    roster = Roster.load(server.roster)
    coordinator = HpkePrivateKey.read(server.hpke_key)
    for name in ("udiat", "busi"):
        site = SiteConfig.load(consortium / "sites" / name / "site.toml")
        assert HpkePublicKey.read(site.server_hpke_key) == coordinator.public
        own = HpkePrivateKey.read(site.hpke_key)
        assert own.public.text == roster.sites[name].hpke_public_key
        assert own.suite is HpkeSuite.HYBRID
    assert len({entry.hpke_public_key for entry in roster.sites.values()}) == 2


def test_the_suite_is_chosen_for_all_keys_and_a_later_site_gets_the_same(tmp_path: Path) -> None:
    provision(["udiat"], tmp_path, hpke_suite=HpkeSuite.X25519)
    provision_site("tnbc", tmp_path)
    coordinator = HpkePrivateKey.read(tmp_path / "server" / "hpke.key")
    later = tmp_path / "sites" / "tnbc"
    assert HpkePublicKey.read(later / "server-hpke.pub") == coordinator.public
    for key in (coordinator, HpkePrivateKey.read(later / "hpke.key")):
        assert key.suite is HpkeSuite.X25519


def test_folders_of_a_time_without_hpke_keys_are_refused_with_the_way_out(tmp_path: Path) -> None:
    provision(["udiat"], tmp_path)
    roster = tmp_path / "server" / "roster.json"
    values = json.loads(roster.read_text())
    del values["sites"]["udiat"]["hpke_public_key"]
    roster.write_text(json.dumps(values))
    with pytest.raises(InvalidInput, match=r"hpke_public_key .* for udiat.*anew"):
        Roster.load(roster)
    (tmp_path / "server" / "hpke.key").unlink()
    with pytest.raises(InvalidInput, match=r"hpke\.key cannot be read.*anew"):
        HpkePrivateKey.read(
            FederationConfig.load(roster.parent / "federation.toml").server.hpke_key
        )


def test_an_existing_consortium_is_never_overwritten(consortium: Path) -> None:
    before = (consortium / "consortium" / "ca.key").read_bytes()
    with pytest.raises(InvalidInput, match="exists and is not overwritten"):
        provision(["other"], consortium)
    assert (consortium / "consortium" / "ca.key").read_bytes() == before


@pytest.mark.parametrize(
    ("sites", "options", "message"),
    [
        (["Udiat"], {}, "sites.0"),
        (["../x"], {}, "sites.0"),
        (["a", "a"], {}, "twice"),
        (["a"], {"fleet_port": 8444}, "each needs its own"),
        (["a"], {"days": 0}, "at least one day"),
        (["a"], {"hosts": ["krankenhäuser.example"]}, "xn--"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_written(
    tmp_path: Path, sites: list[str], options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        provision(sites, tmp_path, **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_site_added_later_has_the_same_authority_and_joins_the_plan(tmp_path: Path) -> None:
    provision(["udiat"], tmp_path, fleet_port=9443)
    federation = tmp_path / "server" / "federation.toml"
    federation.write_text(federation.read_text() + "rounds = 3\n")
    provision_site("tnbc", tmp_path)
    loaded = FederationConfig.load(federation)
    assert (loaded.run.sites, loaded.run.rounds) == (("udiat", "tnbc"), 3)
    assert set(Roster.load(tmp_path / "server" / "roster.json").sites) == {"udiat", "tnbc"}
    site = SiteConfig.load(tmp_path / "sites" / "tnbc" / "site.toml")
    assert site.fleet_port == 9443
    authority = _certificate(tmp_path / "consortium" / "ca.pem")
    _certificate(site.certificate).verify_directly_issued_by(authority)
    assert tomllib.loads(federation.read_text())["server"]["ca"] == "ca.pem"


def test_a_site_is_added_neither_twice_nor_without_the_authoritys_key(tmp_path: Path) -> None:
    provision(["udiat"], tmp_path)
    with pytest.raises(InvalidInput, match="udiat already exists"):
        provision_site("udiat", tmp_path)
    provision(["a"], tmp_path / "other")
    key = tmp_path / "consortium" / "ca.key"
    key.write_bytes((tmp_path / "other" / "consortium" / "ca.key").read_bytes())
    with pytest.raises(CryptoError, match="is not the key"):
        provision_site("tnbc", tmp_path)
    key.unlink()
    with pytest.raises(InvalidInput, match="kept offline"):
        provision_site("tnbc", tmp_path)


def test_a_certificate_never_outlives_its_authority(tmp_path: Path) -> None:
    provision(["udiat"], tmp_path, days=2)
    provision_site("tnbc", tmp_path, days=900)
    authority = _certificate(tmp_path / "consortium" / "ca.pem")
    late = _certificate(tmp_path / "sites" / "tnbc" / "site.pem")
    assert late.not_valid_after_utc == authority.not_valid_after_utc


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nfleet_prot = 1\n", "server.fleet_prot"),
        ("[server]\nfleet_port = 70000\n", "server.fleet_port"),
        ("[server\n", "is not valid TOML"),
    ],
)
def test_a_wrong_federation_file_names_the_file_and_the_key(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "federation.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=message) as caught:
        FederationConfig.load(path)
    assert str(path) in str(caught.value)


def test_a_roster_with_one_key_for_two_sites_or_a_foreign_key_is_refused(consortium: Path) -> None:
    entry = Roster.load(consortium / "server" / "roster.json").sites["udiat"]
    with pytest.raises(ValueError, match="one node key"):
        Roster(sites={"a": entry, "b": entry})
    with pytest.raises(ValueError, match="not an OpenSSH public key"):
        type(entry)(**{**entry.model_dump(), "node_public_key": "ssh-rsa AAAA"})
    with pytest.raises(ValueError, match="not an HPKE public key"):
        type(entry)(**{**entry.model_dump(), "hpke_public_key": "x25519 AAAA"})

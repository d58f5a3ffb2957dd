"""Keys, certificate, roster and the exchange: what is wrong with who this hospital is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fdfed.exchange import ExchangeCode, FrameRefused, HpkePrivateKey
from fdfed_client.check.exchange import check_exchange
from fdfed_client.check.identity import check_identity, identity_of
from fdfed_client.check.result import CheckResult
from fdfed_client.config import SiteConfig
from fdfed_client.exchange_link import ExchangeLink
from fdfed_server.certificates import Authority, private_pem
from fdfed_server.exchange_service import ExchangeService
from fdfed_server.hub import ExchangeHub
from fdfed_server.provision import provision
from fdfed_server.terms import cross_site_terms


def found(site: SiteConfig) -> dict[str, CheckResult]:
    return {result.topic: result for result in check_identity(site)}


def test_a_site_as_it_was_enrolled_is_all_ok(site: SiteConfig) -> None:
    results = found(site)
    assert set(results) == {"keys", "certificate", "roster", "registration"}
    assert {result.level for result in results.values()} == {"ok"}


def test_keys_that_others_can_read_are_told(site: SiteConfig) -> None:
    site.node_key.chmod(0o644)
    result = found(site)["private files"]
    assert (result.level, "node.key" in result.found) == ("warning", True)


def test_a_missing_key_is_named(site: SiteConfig) -> None:
    site.node_key.unlink()
    result = found(site)["keys"]
    assert (result.level, result.exit_code) == ("problem", 2)
    assert "node.key" in result.found


def test_keys_of_another_site_are_told(site: SiteConfig, consortium: Path) -> None:
    other = consortium / "sites" / "monuseg"
    for name in ("site.pem", "site.key"):
        shutil.copy(other / name, site.certificate.parent / name)
    result = found(site)["keys"]
    assert result.exit_code == 4
    assert "that of monuseg, not of tnbc" in result.found


def renew(site: SiteConfig, consortium: Path, *, days: int) -> None:
    """Puts a new certificate and key at the site, of which the roster knows nothing."""
    key = ec.generate_private_key(ec.SECP256R1())
    authority = Authority.load(consortium / "consortium")
    certificate = authority.issue_site(key.public_key(), site=site.site, days=days)
    site.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    site.key.write_bytes(private_pem(key))


def test_a_certificate_is_spoken_of_thirty_days_before_its_end(
    site: SiteConfig, consortium: Path
) -> None:
    renew(site, consortium, days=20)
    result = found(site)["certificate"]
    assert (result.level, "in 19 day(s)" in result.found) == ("warning", True)
    renew(site, consortium, days=40)
    assert found(site)["certificate"].level == "ok"


def test_a_certificate_that_the_roster_does_not_list_is_told(
    site: SiteConfig, consortium: Path
) -> None:
    renew(site, consortium, days=300)
    result = found(site)["registration"]
    assert (result.level, "it was replaced" in result.found) == ("problem", True)


def test_another_node_key_than_the_registered_one_is_told(
    site: SiteConfig, consortium: Path
) -> None:
    shutil.copy(consortium / "sites" / "monuseg" / "node.key", site.node_key)
    assert "node key that is here is not the one" in found(site)["registration"].found


def test_a_site_that_the_roster_does_not_list_is_told(site: SiteConfig, tmp_path: Path) -> None:
    provision(["busi"], tmp_path / "other")
    for name in ("roster.json", "roster.sig", "consortium.pub"):
        shutil.copy(tmp_path / "other" / "server" / name, site.roster.parent / name)
    result = found(site)["registration"]
    assert "does not list tnbc: it was never enrolled, or it was removed" in result.found


def test_a_roster_that_was_altered_is_told(site: SiteConfig) -> None:
    site.roster.write_bytes(site.roster.read_bytes().replace(b'"version": 1', b'"version": 2'))
    result = found(site)["roster"]
    assert (result.level, result.exit_code) == ("problem", 4)


# --- at the coordinator

Serve = Callable[..., SiteConfig]


@pytest.fixture
def serve(consortium: Path, site: SiteConfig) -> Iterator[Serve]:
    """Starts an exchange, by default one that knows the site; the site's configuration for it."""
    opened: list[tuple[ExchangeService, ExchangeHub]] = []
    server = consortium / "server"

    def begin(
        *,
        sites: tuple[str, ...] = ("tnbc", "monuseg"),
        hpke_key: HpkePrivateKey | None = None,
        check: Callable[[str, bytes], None] = lambda site, pem: None,
    ) -> SiteConfig:
        hub = ExchangeHub(cross_site_terms)
        service = ExchangeService(
            hub,
            address="localhost:0",
            sites=sites,
            server_certificate=(server / "server.pem").read_bytes(),
            server_key=(server / "server.key").read_bytes(),
            ca_certificate=(server / "ca.pem").read_bytes(),
            hpke_key=hpke_key or HpkePrivateKey.read(server / "hpke.key"),
            check_certificate=check,
        )
        service.start()
        opened.append((service, hub))
        return site.model_copy(update={"exchange_port": service.port})

    yield begin
    for service, hub in opened:
        service.stop(grace=0.1)
        hub.close()


def test_an_exchange_that_knows_the_site_is_ok_and_is_left_again(serve: Serve) -> None:
    site = serve()
    for _ in range(2):
        assert check_exchange(site).level == "ok"


def test_a_site_that_is_not_registered_is_told(serve: Serve) -> None:
    result = check_exchange(serve(sites=("monuseg",)))
    assert (result.level, result.exit_code) == ("problem", 4)
    assert "not registered" in result.found


def test_a_certificate_that_was_revoked_is_told(serve: Serve) -> None:
    def revoked(site: str, pem: bytes) -> None:
        raise FrameRefused(ExchangeCode.REVOKED, "not in the roster")

    result = check_exchange(serve(check=revoked))
    assert (result.level, "revoked" in result.found) == ("problem", True)


def test_a_coordinator_with_another_key_than_the_pinned_one_is_told(serve: Serve) -> None:
    result = check_exchange(serve(hpke_key=HpkePrivateKey.generate()))
    assert result.level == "problem"
    assert "it has another key" in result.found


def test_an_agent_that_is_connected_already_is_no_problem(serve: Serve) -> None:
    site = serve()
    link = ExchangeLink(
        site.exchange_address, identity_of(site), connect_seconds=10, reply_seconds=10
    )
    try:
        result = check_exchange(site)
    finally:
        link.close()
    assert (result.level, "connected already" in result.found) == ("note", True)

"""A site that the consortium removes, or whose certificate it replaces, while everything runs."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fdfed.exchange import (
    ExchangeCode,
    FrameRefused,
    HpkePrivateKey,
    HpkePublicKey,
    PrototypeFrame,
    StepKey,
    TapLayout,
)
from fdfed.membership.roster import RetiringCertificate, Roster
from fdfed.membership.roster_keeper import RosterKeeper
from fdfed_client.config import SiteConfig
from fdfed_client.exchange import ExchangeStream
from fdfed_client.exchange_identity import SiteIdentity
from fdfed_server.certificates import Authority, private_pem
from fdfed_server.config import FederationConfig
from fdfed_server.exchange_service import ExchangeService
from fdfed_server.handing_out import hand_out
from fdfed_server.hub import ExchangeHub
from fdfed_server.membership import Membership
from fdfed_server.provision import provision
from fdfed_server.roster_change import add_signature, draft_removal, end_retirement, publish
from fdfed_server.terms import cross_site_terms
from fdfed_server.vault import Vault, read_signer_key

LAYOUT = TapLayout(("Enc1", "Bot"), (8, 16))
SITES = ("busi", "tnbc", "udiat")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("federation")
    provision(SITES, out)
    return out


@dataclass
class Federation:
    """A consortium, its coordinator's exchange, and streams of its sites."""

    out: Path
    membership: Membership
    hub: ExchangeHub
    service: ExchangeService

    @property
    def vault(self) -> Vault:
        return Vault(self.out / "consortium")

    def sign_and_publish(self) -> None:
        vault, before = self.vault, self.membership.roster.sites
        add_signature(vault, read_signer_key(vault.folder / "consortium.key"))
        hand_out(vault, publish(vault), self.out, before=before)

    def identity(self, site: str) -> SiteIdentity:
        config = SiteConfig.load(self.out / "sites" / site / "site.toml")
        return SiteIdentity(
            certificate=config.certificate.read_bytes(),
            key=config.key.read_bytes(),
            ca_certificate=config.ca.read_bytes(),
            server_hpke_key=HpkePublicKey.read(config.server_hpke_key),
        )

    def stream(self, site: str) -> ExchangeStream:
        address = f"localhost:{self.service.port}"
        return ExchangeStream(address, lambda: self.identity(site), reply_seconds=30.0)

    def open_round(self) -> None:
        self.hub.open_round(
            "run",
            1,
            1,
            sites=SITES,
            layout=LAYOUT,
            steps=9,
            deadline_seconds=25.0,
            max_missed_steps=3,
        )


@pytest.fixture
def federation(made: Path, tmp_path: Path) -> Iterator[Federation]:
    out = Path(shutil.copytree(made, tmp_path / "out"))
    server = FederationConfig.load(out / "server" / "federation.toml").server
    keeper = RosterKeeper(
        server.roster, public_key=server.consortium_key, used=server.state / "roster-used.json"
    )
    membership, hub = Membership(keeper), ExchangeHub(cross_site_terms)
    service = ExchangeService(
        hub,
        address="localhost:0",
        sites=SITES,
        server_certificate=server.certificate.read_bytes(),
        server_key=server.key.read_bytes(),
        ca_certificate=server.ca.read_bytes(),
        hpke_key=HpkePrivateKey.read(server.hpke_key),
        check_certificate=membership.check_certificate,
    )
    service.start()
    membership.on_change(lambda _: service.enforce())
    yield Federation(out, membership, hub, service)
    hub.close()
    service.stop(grace=0)


def frame(site: str, step: int) -> PrototypeFrame:
    rng = np.random.default_rng([step, *site.encode()])
    vector = rng.normal(size=LAYOUT.size).astype(np.float32)
    return PrototypeFrame(StepKey("run", 1, 1, step), vector, np.ones(2, dtype=bool))


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.01)


def test_a_site_that_is_removed_in_the_middle_of_a_step_is_cut_off_and_the_others_go_on(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    federation.open_round()
    streams = {site: federation.stream(site) for site in SITES}
    for stream in streams.values():
        stream.connect()
    with ThreadPoolExecutor(3) as pool:
        # Two have posted, and wait for the third; then one of the two is removed.
        waiting = {s: pool.submit(streams[s].swap, frame(s, 0)) for s in ("busi", "tnbc")}
        until(lambda: federation.hub.snapshot().frames_in == 2)
        draft_removal(federation.vault, "busi")
        federation.sign_and_publish()
        federation.membership.look()
        with pytest.raises(FrameRefused, match="REVOKED"):
            waiting["busi"].result(20)
        third = pool.submit(streams["udiat"].swap, frame("udiat", 0))
        for answer in (waiting["tnbc"].result(20), third.result(20)):
            assert answer is not None
            assert answer.peers == 1
    until(lambda: federation.service.connected == {"tnbc", "udiat"})
    assert federation.hub.snapshot().refused == {ExchangeCode.REVOKED: 1}
    assert "busi is not in roster version 2 any more" in caplog.text
    with pytest.raises(FrameRefused, match="REVOKED"):
        federation.stream("busi").connect()
    for stream in streams.values():
        stream.close()


def test_an_idle_stream_of_a_removed_site_is_closed_at_once(federation: Federation) -> None:
    stream = federation.stream("udiat")
    stream.connect()
    draft_removal(federation.vault, "udiat")
    federation.sign_and_publish()
    federation.membership.look()
    until(lambda: not federation.service.connected)
    federation.open_round()
    with pytest.raises(FrameRefused, match="REVOKED"):
        stream.swap(frame("udiat", 0))
    stream.close()


def certified(federation: Federation, site: str) -> tuple[bytes, bytes]:
    """A new certificate by the consortium's own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    authority = Authority.load(federation.vault.folder)
    certificate = authority.issue_site(key.public_key(), site=site, days=2)
    return certificate.public_bytes(Encoding.PEM), private_pem(key)


def test_a_certificate_of_the_authority_alone_lets_nobody_in(federation: Federation) -> None:
    # Whoever holds the authority's key, but no signer's, cannot pose as a site.
    folder = federation.out / "sites" / "udiat"
    pem, key = certified(federation, "udiat")
    (folder / "site.pem").write_bytes(pem)
    (folder / "site.key").write_bytes(key)
    with pytest.raises(FrameRefused, match="REVOKED"):
        federation.stream("udiat").connect()
    assert federation.hub.snapshot().refused == {ExchangeCode.REVOKED: 1}


def test_a_roster_that_the_coordinator_made_itself_changes_nothing(
    federation: Federation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream = federation.stream("udiat")
    stream.connect()
    provision(SITES[:2], tmp_path / "own")
    for name in ("roster.sig", "roster.json"):
        shutil.copy(tmp_path / "own" / "server" / name, federation.out / "server" / name)
    federation.membership.look()
    federation.membership.look()
    assert federation.membership.roster.version == 1
    assert "the roster on disk is not used" in caplog.text
    assert federation.service.connected == {"udiat"}
    stream.close()


def renewed(vault: Vault, site: str, pem: bytes) -> Roster:
    """The next roster, in which the site has this certificate beside its present one."""
    certificate, roster = x509.load_pem_x509_certificate(pem), vault.roster
    entry = roster.sites[site]
    retiring = RetiringCertificate(
        certificate_sha256=entry.certificate_sha256, certificate_serial=entry.certificate_serial
    )
    changed = entry.model_copy(
        update={
            "certificate_sha256": certificate.fingerprint(hashes.SHA256()).hex(),
            "certificate_serial": f"{certificate.serial_number:x}",
            "retiring": retiring,
        }
    )
    sites = {**roster.sites, site: changed}
    return roster.model_copy(update={"sites": sites, "version": roster.version + 1})


def test_after_a_renewal_both_certificates_serve_until_the_old_one_is_retired(
    federation: Federation,
) -> None:
    old = federation.stream("tnbc")
    old.connect()
    vault = federation.vault
    entry = vault.roster.sites["tnbc"]
    pem, key = certified(federation, "tnbc")
    vault.put_draft(renewed(vault, "tnbc", pem))
    federation.sign_and_publish()
    federation.membership.look()
    assert federation.membership.roster.sites["tnbc"].fingerprint == entry.fingerprint
    federation.open_round()
    old.close()
    until(lambda: not federation.service.connected)
    old.connect()
    assert federation.service.connected == {"tnbc"}
    old_identity = federation.identity("tnbc")
    folder = federation.out / "sites" / "tnbc"
    (folder / "site.pem").write_bytes(pem)
    (folder / "site.key").write_bytes(key)
    end_retirement(federation.vault, "tnbc")
    federation.sign_and_publish()
    federation.membership.look()
    until(lambda: not federation.service.connected)
    # The same agent, which looks at its files anew for every connection.
    old.connect()
    old.close()
    until(lambda: not federation.service.connected)
    stale = ExchangeStream(f"localhost:{federation.service.port}", old_identity, reply_seconds=5.0)
    with pytest.raises(FrameRefused, match="REVOKED"):
        stale.connect()


def test_the_roster_is_looked_at_while_the_coordinator_runs(federation: Federation) -> None:
    heard = threading.Event()
    federation.membership.on_change(lambda _: heard.set())
    with federation.membership:
        draft_removal(federation.vault, "busi")
        federation.sign_and_publish()
        assert heard.wait(20)
    assert "busi" not in federation.membership.roster.sites


def test_two_agents_with_one_identity_are_told_apart_by_who_came_first(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    federation.open_round()
    honest, copy = federation.stream("udiat"), federation.stream("udiat")
    honest.connect()
    with pytest.raises(FrameRefused, match="DUPLICATE_STREAM"):
        copy.connect()
    assert "two agents have one identity" in caplog.text
    assert "while a stream from" in caplog.text
    assert "training goes on without cross-site terms: exchange refused with DUPLICATE_STREAM" in (
        caplog.text
    )
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(federation.stream(s).swap, frame(s, 0)) for s in ("busi", "tnbc")]
        answer = honest.swap(frame("udiat", 0))
        assert all(other.result(20) is not None for other in others)
    assert answer is not None
    assert answer.peers == 2
    for stream in (honest, copy):
        stream.close()


def test_certificates_that_end_soon_are_told_once_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provision(["tnbc"], tmp_path / "out", days=9)
    server = FederationConfig.load(tmp_path / "out" / "server" / "federation.toml").server
    keeper = RosterKeeper(
        server.roster, public_key=server.consortium_key, used=server.state / "roster-used.json"
    )
    own = {"the coordinator's certificate": datetime.now(UTC) + timedelta(days=300)}
    membership = Membership(keeper, own_certificates=own)
    (notice,) = membership.notices()
    assert "the certificate of tnbc expires on" in notice
    assert "in 9 day(s)" in notice
    for _ in range(3):
        membership.remind(today=date(2030, 1, 1))
    assert caplog.text.count("the certificate of tnbc expires on") == 1
    membership.remind(today=date(2030, 1, 2))
    assert caplog.text.count("the certificate of tnbc expires on") == 2

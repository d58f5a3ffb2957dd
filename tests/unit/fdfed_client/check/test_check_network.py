"""Each thing that can be wrong on the way to the coordinator is told apart, with what to do."""

from __future__ import annotations

import datetime as dt
import http.server
import socket
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fdfed.wire import SPOKEN
from fdfed_client.check import network
from fdfed_client.check.network import check_exchange_port, check_way
from fdfed_client.check.result import CheckResult
from fdfed_client.config import SiteConfig
from fdfed_server.certificates import Authority

from .conftest import Start, inspecting_certificate, server_files, write_files


def at(site: SiteConfig, port: int, server: str = "localhost") -> SiteConfig:
    return site.model_copy(update={"fleet_port": port, "server": server})


def found(site: SiteConfig) -> dict[str, CheckResult]:
    return {result.topic: result for result in check_way(site)}


def the_problem(site: SiteConfig) -> CheckResult:
    (result,) = [result for result in check_way(site) if result.level == "problem"]
    assert result.exit_code == 4
    assert result.remedy
    return result


def test_a_good_coordinator_is_all_ok(site: SiteConfig, start: Start) -> None:
    results = found(at(site, start().port))
    assert set(results) == {"name", "proxy", "fleet port", "TLS", "clock", "version"}
    assert {result.level for result in results.values()} == {"ok"}


def test_a_name_without_an_address_is_a_matter_of_dns(site: SiteConfig) -> None:
    result = the_problem(at(site, 1, "no-such-host.invalid"))
    assert result.topic == "name"
    assert "no-such-host.invalid has no address" in result.found


def closed_port() -> int:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return int(reserved.getsockname()[1])


def test_a_port_that_nobody_listens_on_is_told_with_what_to_ask_for(site: SiteConfig) -> None:
    port = closed_port()
    result = the_problem(at(site, port))
    assert result.topic == "fleet port"
    assert f"outbound TCP to localhost, port {port}" in result.remedy
    other = check_exchange_port(site.model_copy(update={"exchange_port": port}))
    assert (other.topic, other.level) == ("exchange port", "problem")


def test_a_proxy_that_opens_tls_is_named_by_its_certificate(
    site: SiteConfig, start: Start, tmp_path: Path
) -> None:
    port = start(inspecting_certificate(tmp_path / "gateway")).port
    result = the_problem(at(site, port))
    assert result.topic == "TLS inspection"
    assert "CN=Clinic Web Gateway" in result.found
    assert "exempted from inspection" in result.remedy


def test_the_coordinator_of_another_consortium_is_not_taken_for_a_proxy(
    site: SiteConfig, start: Start, tmp_path: Path
) -> None:
    port = start(server_files(Authority.create(days=1), tmp_path / "other")).port
    assert "another consortium" in the_problem(at(site, port)).found


@pytest.fixture
def authority(consortium: Path) -> Authority:
    return Authority.load(consortium / "consortium")


def test_a_certificate_for_another_name_is_told(
    site: SiteConfig, start: Start, authority: Authority, tmp_path: Path
) -> None:
    port = start(server_files(authority, tmp_path / "n", host="hub.example.org")).port
    result = the_problem(at(site, port))
    assert "not for this name" in result.found


def test_a_certificate_that_has_expired_is_told_with_the_clock_in_mind(
    site: SiteConfig, start: Start, authority: Authority, tmp_path: Path
) -> None:
    port = start(server_files(authority, tmp_path / "old", days=0)).port
    result = the_problem(at(site, port))
    assert "has expired, by the clock of this machine" in result.found


def test_a_certificate_of_tomorrow_means_that_the_clock_here_is_behind(
    site: SiteConfig, start: Start, authority: Authority, tmp_path: Path
) -> None:
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(9)
        .not_valid_before(now + dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    port = start(write_files(tmp_path / "tomorrow", certificate, key)).port
    result = the_problem(at(site, port))
    assert (result.topic, "clock is behind" in result.remedy) == ("clock", True)


@pytest.mark.parametrize(
    ("ahead", "level"),
    [(3600, "problem"), (-3600, "problem"), (-8, "problem"), (60, "warning")],
)
def test_a_clock_that_is_off_is_told_and_is_a_problem_where_signatures_fail(
    site: SiteConfig, start: Start, ahead: float, level: str
) -> None:
    result = found(at(site, start(ahead=ahead).port))["clock"]
    assert result.level == level
    assert "NTP" in result.remedy


@pytest.mark.parametrize(
    ("version", "level", "told"),
    [
        ("wire=9 exchange=9", "problem", "install the same version"),
        (None, "warning", "agree on one version"),
        (SPOKEN, "ok", ""),
    ],
)
def test_a_coordinator_of_another_version_is_told(
    site: SiteConfig, start: Start, version: str | None, level: str, told: str
) -> None:
    result = found(at(site, start(version=version).port))["version"]
    assert (result.level, told in result.remedy) == (level, True)


def test_something_else_on_the_port_is_told(site: SiteConfig, start: Start) -> None:
    result = the_problem(at(site, start(status=404).port))
    assert "answers HTTP 404" in result.found


def test_a_port_that_does_not_speak_tls_is_told(site: SiteConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer() -> None:
            # The first connection is the check's look at the port itself.
            for _ in range(2):
                connection, _ = plain.accept()
                with connection:
                    connection.sendall(b"220 mail.example.org ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        result = the_problem(at(site, plain.getsockname()[1]))
        thread.join()
    assert "no TLS connection" in result.found


def test_a_coordinator_that_is_silent_is_not_taken_for_one_without_tls(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = the_problem(at(site, silent.getsockname()[1]))
    assert "says nothing" in result.found
    assert "try again in a minute" in result.remedy


class _Refusing(http.server.BaseHTTPRequestHandler):
    def do_CONNECT(self) -> None:
        self.send_error(403)

    def log_message(self, *_: object) -> None: ...


def test_a_proxy_of_the_environment_is_shown_without_its_password_and_tried(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"127.0.0.1:{proxy.server_address[1]}"
    monkeypatch.setenv("https_proxy", f"http://anna:secret@{address}")
    try:
        results = found(at(site, 8443, "coordinator.invalid"))
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
    assert results["name"].level == "note"
    assert f"http://{address}" in results["proxy"].found
    assert results["TLS"].level == "problem"
    assert "403" in results["TLS"].found
    assert not [r for r in results.values() if "secret" in r.found + r.remedy]


def test_no_proxy_spares_the_coordinator(
    site: SiteConfig, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "localhost")
    results = found(at(site, start().port))
    assert {result.level for result in results.values()} == {"ok"}

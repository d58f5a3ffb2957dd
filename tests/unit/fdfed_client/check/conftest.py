"""A provisioned hospital, and coordinators of every sort on loopback: real sockets, real TLS."""

from __future__ import annotations

import datetime as dt
import email.utils
import http.server
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fdfed.wire import PROTOCOL_HEADER, SPOKEN
from fdfed_client.config import SiteConfig
from fdfed_server.certificates import Authority, private_pem
from fdfed_server.provision import provision

FindSite = Callable[..., SiteConfig]


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "federation"
    provision(["tnbc", "monuseg"], folder, hosts=["localhost"])
    return folder


@pytest.fixture
def consortium(provisioned: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(provisioned, tmp_path / "federation"))


@pytest.fixture
def site(consortium: Path) -> SiteConfig:
    return SiteConfig.load(consortium / "sites" / "tnbc" / "site.toml")


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def server_files(authority: Authority, folder: Path, *, days: int = 1, host: str = "localhost"):  # type: ignore[no-untyped-def]
    """PEM files of a server's certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue_server(key.public_key(), hosts=(host,), days=days)
    return write_files(folder, certificate, key)


def write_files(
    folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> tuple[Path, Path]:
    """The two as files for `ssl`."""
    folder.mkdir(exist_ok=True)
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "cert.key").write_bytes(private_pem(key))
    return folder / "cert.pem", folder / "cert.key"


def inspecting_certificate(folder: Path) -> tuple[Path, Path]:
    """What a hospital's proxy shows in place of the coordinator's certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Clinic Web Gateway")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return write_files(folder, certificate, key)


class Coordinator:
    """An HTTPS server that answers /health."""

    def __init__(
        self,
        files: tuple[Path, Path],
        *,
        ahead: float = 0.0,
        version: str | None = SPOKEN,
        status: int = 200,
    ) -> None:
        def headers() -> list[tuple[str, str]]:
            now = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=ahead)
            said = [("Date", email.utils.format_datetime(now, usegmt=True))]
            return said if version is None else [*said, (PROTOCOL_HEADER, version)]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response_only(status)
                for name, value in headers():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None: ...  # a client that refuses our TLS

        self._server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()
        self.port = int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


Start = Callable[..., Coordinator]


@pytest.fixture
def start(consortium: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a coordinator, by default one with a good certificate of this consortium."""
    running: list[Coordinator] = []

    def begin(files: tuple[Path, Path] | None = None, **options: object) -> Coordinator:
        good = (consortium / "server" / "server.pem", consortium / "server" / "server.key")
        running.append(Coordinator(files or good, **options))  # type: ignore[arg-type]
        return running[-1]

    yield begin
    for coordinator in running:
        coordinator.close()

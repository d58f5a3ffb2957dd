"""An authority, a hub in service, and a stream that sends whatever it likes: for tests over real
gRPC with mutual TLS on loopback."""

import datetime as dt
import ipaddress
import queue
from typing import Any

import grpc
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fdfed.exchange import (
    HpkePrivateKey,
    Session,
    TapLayout,
    open_session,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed_client.exchange_identity import SiteIdentity
from fdfed_server.exchange_service import ExchangeService
from fdfed_server.hub import ExchangeHub
from fdfed_server.terms import cross_site_terms

LAYOUT = TapLayout(("Enc1", "Enc2", "Bot"), (8, 16, 32))
SITES = ("ad", "busi", "monuseg", "tnbc", "udiat")
HUB_KEY = HpkePrivateKey.generate()
METHOD = "/fdfed.exchange.v1.Exchange/Stream"


class Authority:
    """A CA and what it issues, as PEM."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        self.certificate = self._sign(
            self._name, self._key, x509.BasicConstraints(ca=True, path_length=None)
        )

    def issue(self, name: str, *, days: int = 1) -> tuple[bytes, bytes]:
        """Certificate and key of `name`; for a hub also good as `localhost`."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return self._sign(subject, key, names, days=days), pem

    def site(self, name: str) -> SiteIdentity:
        certificate, key = self.issue(name)
        return SiteIdentity(
            certificate=certificate,
            key=key,
            ca_certificate=self.certificate,
            server_hpke_key=HUB_KEY.public,
        )

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extension: x509.ExtensionType,
        *,
        days: int = 1,
    ) -> bytes:
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=2))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(extension, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


class Coordinator:
    """A hub and its service; `restart` brings it back on the same port."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._certificate, self._key = authority.issue("hub")
        self.hub = ExchangeHub(cross_site_terms)
        self.events: list[str] = []
        self.service = self._serve("localhost:0")
        self.address = f"localhost:{self.service.port}"

    def _serve(self, address: str) -> ExchangeService:
        service = ExchangeService(
            self.hub,
            address=address,
            sites=SITES,
            server_certificate=self._certificate,
            server_key=self._key,
            ca_certificate=self._authority.certificate,
            hpke_key=HUB_KEY,
            on_connect=lambda site: self.events.append(f"+{site}"),
            on_disconnect=lambda site: self.events.append(f"-{site}"),
        )
        service.start()
        return service

    def open(self, sites: tuple[str, ...], **changes: Any) -> None:
        values: dict[str, Any] = {
            "steps": 20,
            "deadline_seconds": 20.0,
            "max_missed_steps": 3,
            "dtype": np.float64,
        }
        self.hub.open_round("run", 1, 0, sites=sites, layout=LAYOUT, **(values | changes))

    def restart(self) -> None:
        self.service.stop(grace=0)
        self.service = self._serve(self.address)

    def close(self) -> None:
        self.hub.close()
        self.service.stop(grace=0)


class RawStream:
    """Sends whatever bytes it likes, with a certificate that is in order."""

    def __init__(self, address: str, identity: Any) -> None:
        credentials = grpc.ssl_channel_credentials(
            identity.ca_certificate, identity.key, identity.certificate
        )
        # Not the channel of an honest site, which has a limit of its own.
        self._channel = grpc.secure_channel(address, credentials)
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._replies = self._channel.stream_stream(METHOD)(
            iter(self._outgoing.get, None), timeout=20
        )
        self.first = self.read()
        """The challenge, or why there is none."""
        self.challenge = self.first.challenge.nonce

    def send(self, message: bytes) -> None:
        self._outgoing.put(message)

    def read(self) -> pb.HubFrame:
        reply: pb.HubFrame = pb.HubFrame.FromString(next(self._replies))
        return reply

    def greet(self) -> Session:
        """The session that an honest site would have."""
        session, hello = open_session(HUB_KEY.public, site="ad", challenge=self.challenge)
        self.send(pb.SiteFrame(hello=hello).SerializeToString())
        welcome = pb.HubContent.FromString(session.unseal(self.read().sealed))
        assert welcome.welcome.site == "ad"
        return session

    def rest(self) -> list[pb.HubFrame]:
        """What still comes; then the stream is closed, by whichever side."""
        self._outgoing.put(None)
        replies = [pb.HubFrame.FromString(reply) for reply in self._replies]
        self._channel.close()
        return replies

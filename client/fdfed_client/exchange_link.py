"""One connection to the exchange hub, from handshake to loss. `exchange.ExchangeStream` holds it.

The stream is gRPC's blocking one, read by the thread that asks: each hop to another thread costs
0.1 to 0.3 ms where cores are scarce, and asyncio has two of them. What that leaves out, a bound on
the wait, is given by a thread that sleeps through all steps that are answered in time.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

# Before gRPC is imported: its fork handlers stall a process whose data loader forks workers.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fdfed.errors import ConnectionFailed, CryptoError
from fdfed.exchange import (
    INSECURE_SITE_HEADER,
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    ExchangeCode,
    FrameRefused,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed.exchange import exchange_pb2_grpc as pb_grpc

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # The back-off is ours: gRPC would share its own, of up to two minutes, with the next channel.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


class HubUnavailable(ConnectionFailed):
    """The hub cannot be reached now, or went away: worth another try later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteIdentity:
    """A site's PEM files for mutual TLS, checked against one another.

    Raises:
        CryptoError: if one cannot be read, or they do not belong together, or not to this day.
    """

    certificate: bytes
    key: bytes
    ca_certificate: bytes

    def __post_init__(self) -> None:
        try:
            certificate, *chain = x509.load_pem_x509_certificates(self.certificate)
            public_key = load_pem_private_key(self.key, password=None).public_key()
            authorities = x509.load_pem_x509_certificates(self.ca_certificate)
        except (ValueError, TypeError) as err:
            raise CryptoError(
                "the site's certificate, key or CA certificate is not readable PEM (the key without"
                " a password); put back the files that enrolment left"
            ) from err
        if certificate.public_key() != public_key:
            raise CryptoError(
                "the site's key is not the one its certificate was issued for; use the pair that "
                "was made at enrolment"
            )
        if not any(_issued_by(certificate, authority) for authority in (*authorities, *chain)):
            raise CryptoError(
                "the site's certificate was not issued by the CA in its folder, so the hub would "
                "not take it either; use the files of one enrolment"
            )
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not start <= datetime.now(UTC) <= end:
            raise CryptoError(
                f"the site's certificate is valid from {start:%Y-%m-%d %H:%M} to "
                f"{end:%Y-%m-%d %H:%M} UTC, not now; check this machine's clock, or have the "
                "certificate renewed"
            )

    def channel(self, address: str) -> grpc.Channel:
        """A channel with mutual TLS; nothing is connected yet."""
        credentials = grpc.ssl_channel_credentials(self.ca_certificate, self.key, self.certificate)
        return grpc.secure_channel(address, credentials, options=_OPTIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class InsecureIdentity:
    """A name without proof, over a channel without TLS: for tests alone."""

    site: str

    def channel(self, address: str) -> grpc.Channel:
        """A channel in the clear."""
        return grpc.insecure_channel(address, options=_OPTIONS)


class ExchangeLink:
    """An open stream. After any error but a refusal it is of no further use: `close` it."""

    def __init__(
        self,
        address: str,
        identity: SiteIdentity | InsecureIdentity,
        *,
        connect_seconds: float,
        reply_seconds: float,
    ) -> None:
        """Connects and greets.

        Args:
            address: `host:port`.
            identity: who this site is.
            connect_seconds: bound on connecting and greeting together.
            reply_seconds: bound on every later answer.

        Raises:
            HubUnavailable: if the hub is not there, or does not answer in time.
            CryptoError: if the hub's certificate does not verify.
            FrameRefused: if the hub does not take this site, or speaks another version.
        """
        self._address = address
        self._limit = connect_seconds
        self._due: float | None = None
        self._closed = threading.Event()
        self._outgoing: queue.SimpleQueue[pb.SiteFrame | None] = queue.SimpleQueue()
        self._channel = identity.channel(address)
        metadata = (
            ((INSECURE_SITE_HEADER, identity.site),)
            if isinstance(identity, InsecureIdentity)
            else None
        )
        stub = pb_grpc.ExchangeStub(self._channel)  # type: ignore[no-untyped-call]
        self._call = stub.Stream(iter(self._outgoing.get, None), metadata=metadata)
        threading.Thread(
            target=self._watch,
            args=(min(connect_seconds, reply_seconds),),
            name="exchange-watch",
            daemon=True,
        ).start()
        try:
            self._greet()
        except BaseException:
            self.close()
            raise
        self._limit = reply_seconds

    def ask(self, message: pb.SiteFrame) -> pb.HubFrame:
        """The hub's answer to `message`.

        Raises:
            HubUnavailable: if the connection is lost, or nothing comes in time.
            CryptoError: if the hub's certificate does not verify.
            FrameRefused: if the message is too large for the hub.
        """
        self._due = time.monotonic() + self._limit
        self._outgoing.put(message)
        try:
            reply: pb.HubFrame = next(self._call)
        except StopIteration:
            raise HubUnavailable(f"the exchange hub at {self._address} ended the stream") from None
        except grpc.RpcError as err:
            if err.code() is grpc.StatusCode.CANCELLED:
                why = "was closed" if self._closed.is_set() else f"was silent for {self._limit:g} s"
                raise HubUnavailable(f"the stream to {self._address} {why}") from err
            raise _explained(err, self._address) from err
        finally:
            self._due = None
        return reply

    def close(self) -> None:
        """Ends the stream and its threads; the hub sees the site leave."""
        self._closed.set()
        self._outgoing.put(None)
        self._call.cancel()
        self._channel.close()

    def _watch(self, pause: float) -> None:
        # It never sleeps longer than the limit, so it wakes before anything asked meanwhile is
        # due, and then sleeps until exactly that moment.
        while not self._closed.wait(pause):
            due = self._due
            pause = self._limit if due is None else due - time.monotonic()
            if pause <= 0:
                self._call.cancel()
                return

    def _greet(self) -> None:
        hello = pb.Hello(protocol_version=PROTOCOL_VERSION)
        reply = self.ask(pb.SiteFrame(hello=hello))
        kind = reply.WhichOneof("frame")
        if kind == "refusal":
            raise refusal_of(reply)
        if kind != "welcome" or reply.welcome.protocol_version != PROTOCOL_VERSION:
            raise FrameRefused(ExchangeCode.WRONG_PROTOCOL, f"the hub at {self._address}")


def refusal_of(reply: pb.HubFrame) -> FrameRefused:
    """The error for a refusal; its text is ours by the code, never the sender's."""
    try:
        code = ExchangeCode(reply.refusal.code)
    except ValueError:
        code = ExchangeCode.MALFORMED
    return FrameRefused(code)


def _explained(error: grpc.RpcError, address: str) -> ConnectionFailed:
    """What gRPC's error means, as far as its text tells."""
    status, details = error.code(), (error.details() or "").replace("\n", " ")
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return FrameRefused(ExchangeCode.TOO_LARGE, details)
    if "WRONG_VERSION_NUMBER" in details:
        return CryptoError(
            f"{address} does not speak TLS; check the port of the exchange ({details})"
        )
    if "Hostname Verification Check failed" in details:
        return CryptoError(
            f"the exchange hub's certificate is not for the name in {address}; use the name it was "
            f"issued for, or have it issued for this one ({details})"
        )
    if "Tls handshake failed" in details:
        return CryptoError(
            f"the exchange hub at {address} shows a certificate that the consortium's CA did not "
            "sign; a proxy that opens TLS on the way does the same. Compare the CA certificate, "
            f"and let the connection pass the proxy unopened ({details})"
        )
    # A hub that does not like our certificate says so in its own log alone: TLS 1.3 has us
    # believe that the handshake is done, and then the connection is cut.
    cut = "Socket closed" in details or "reset by peer" in details
    hint = (
        "if it stays so, this site's certificate may not be accepted: see the hub's log"
        if cut
        else "check address, port and firewall"
    )
    return HubUnavailable(
        f"no connection to the exchange hub at {address}: {status.name}, {details}; {hint}"
    )


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True

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
from typing import NamedTuple

# Before gRPC is imported: its fork handlers stall a process whose data loader forks workers.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
from google.protobuf.message import DecodeError

from fdfed.errors import ConnectionFailed, CryptoError
from fdfed.exchange import (
    INSECURE_SITE_HEADER,
    PROTOCOL_VERSION,
    ExchangeCode,
    FrameRefused,
    Session,
    open_session,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed.exchange import exchange_pb2_grpc as pb_grpc
from fdfed_client.egress import FrameGate
from fdfed_client.exchange_identity import InsecureIdentity, SiteIdentity


class HubUnavailable(ConnectionFailed):
    """The hub cannot be reached now, or went away: worth another try later."""


class Answer(NamedTuple):
    """What the hub said, and what it took in bytes of messages."""

    content: pb.HubContent
    bytes_up: int
    bytes_down: int


class ExchangeLink:
    """An open stream, its frames sealed. After any error but a refusal, `close` it: it is of no
    further use."""

    def __init__(
        self,
        address: str,
        identity: SiteIdentity | InsecureIdentity,
        *,
        connect_seconds: float,
        reply_seconds: float,
        gate: FrameGate | None = None,
    ) -> None:
        """Connects and greets.

        Args:
            address: `host:port`.
            identity: who this site is.
            connect_seconds: bound on connecting and greeting together.
            reply_seconds: bound on every later answer.
            gate: clears each frame before it is sealed; None is for tests.

        Raises:
            HubUnavailable: if the hub is not there, or does not answer in time.
            CryptoError: if the hub's certificate does not verify, or it does not have the private
                key of the pinned one.
            FrameRefused: if the hub does not take this site, or speaks another version.
        """
        self._address = address
        self._gate = gate
        self._limit = connect_seconds
        self._due: float | None = None
        self._closed = threading.Event()
        self._outgoing: queue.SimpleQueue[pb.SiteFrame | None] = queue.SimpleQueue()
        self._incoming: queue.SimpleQueue[pb.HubFrame | ConnectionFailed] = queue.SimpleQueue()
        self._owed = threading.Semaphore(0)
        self._reader: threading.Thread | None = None
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
            self._session = self._greet(identity)
        except BaseException:
            self.close()
            raise
        self._limit = reply_seconds

    @property
    def is_open(self) -> bool:
        """Whether the stream has not ended, as far as this end has heard."""
        return not self._closed.is_set() and bool(self._call.is_active())

    def ask(self, content: pb.SiteContent) -> Answer:
        """The hub's answer to `content`.

        Raises:
            HubUnavailable: if the connection is lost, or nothing comes in time.
            CryptoError: if the answer is not the next one that the hub sealed.
            FrameRefused: if the content is too large for the hub.
            RefusedByPolicy: if the site's own rules hold it back.
        """
        message = self._sealed(content)
        return self._opened(self._next(message), sent=message)

    def post(self, content: pb.SiteContent) -> int:
        """Sends `content` and does not wait; the bytes of its message. On a link that posts, `take`
        is the only way to the answers, which come in the order of what was posted.

        Raises:
            HubUnavailable: if the link is closed.
            RefusedByPolicy: if the site's own rules hold it back.
        """
        if self._closed.is_set():
            raise HubUnavailable(f"the stream to {self._address} was closed")
        message = self._sealed(content)
        if self._reader is None:
            # A thread of its own: gRPC's stream cannot be asked whether something is there.
            self._reader = threading.Thread(target=self._read, name="exchange-read", daemon=True)
            self._reader.start()
        self._outgoing.put(message)
        self._owed.release()
        return int(message.ByteSize())

    def take(self, until: float) -> Answer | None:
        """The next answer; None if there is none by `until` (of `time.monotonic`), which may be
        past.

        Raises:
            HubUnavailable: if the connection is lost.
            CryptoError: if the answer is not the next one that the hub sealed.
        """
        try:
            reply = self._incoming.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return None
        if isinstance(reply, ConnectionFailed):
            raise reply
        return self._opened(reply)

    def _sealed(self, content: pb.SiteContent) -> pb.SiteFrame:
        """Everything that leaves passes the gate, and is sealed."""
        gate = self._gate
        data = content.SerializeToString() if gate is None else gate.release(content)
        return pb.SiteFrame(sealed=self._session.seal(data))

    def _opened(self, reply: pb.HubFrame, *, sent: pb.SiteFrame | None = None) -> Answer:
        if self._gate is not None:
            self._gate.received(reply.ByteSize())
        up = 0 if sent is None else sent.ByteSize()
        return Answer(self._unsealed(self._session, reply), up, reply.ByteSize())

    def _read(self) -> None:
        # One answer is read for each message sent: a hub cannot fill this site's memory.
        while True:
            self._owed.acquire()
            try:
                self._incoming.put(self._received())
            except ConnectionFailed as err:
                self._incoming.put(err)
                return

    def _next(self, message: pb.SiteFrame | None) -> pb.HubFrame:
        """The hub's next message, after `message` is sent, within the limit."""
        self._due = time.monotonic() + self._limit
        if message is not None:
            self._outgoing.put(message)
        try:
            return self._received()
        finally:
            self._due = None

    def _received(self) -> pb.HubFrame:
        try:
            reply: pb.HubFrame = next(self._call)
        except StopIteration:
            raise HubUnavailable(f"the exchange hub at {self._address} ended the stream") from None
        except grpc.RpcError as err:
            if err.code() is grpc.StatusCode.CANCELLED:
                why = "was closed" if self._closed.is_set() else f"was silent for {self._limit:g} s"
                raise HubUnavailable(f"the stream to {self._address} {why}") from err
            raise _explained(err, self._address) from err
        return reply

    def close(self) -> None:
        """Ends the stream and its threads; the hub sees the site leave."""
        self._closed.set()
        self._outgoing.put(None)
        self._call.cancel()
        self._owed.release()
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

    def _greet(self, identity: SiteIdentity | InsecureIdentity) -> Session:
        first = self._next(None)
        if first.HasField("refusal"):
            raise refusal_of(first.refusal)
        if first.challenge.protocol_version != PROTOCOL_VERSION:
            raise FrameRefused(ExchangeCode.WRONG_PROTOCOL, f"the hub at {self._address}")
        session, hello = open_session(
            identity.server_hpke_key, site=identity.site, challenge=first.challenge.nonce
        )
        reply = self._next(pb.SiteFrame(hello=hello))
        if reply.HasField("refusal"):
            refusal = refusal_of(reply.refusal)
            if refusal.code in (ExchangeCode.WRONG_SUITE, ExchangeCode.BAD_OPENING):
                raise CryptoError(
                    f"the exchange hub at {self._address} cannot open what is sealed to the "
                    f"pinned server-hpke.pub ({refusal.code.name}): it has another key. Compare "
                    "the fingerprints with the coordinator's, and take the folder of one "
                    "provisioning; nothing was sent"
                ) from refusal
            raise refusal
        content = self._unsealed(session, reply)
        if content.welcome.protocol_version != PROTOCOL_VERSION:
            raise FrameRefused(ExchangeCode.WRONG_PROTOCOL, f"the hub at {self._address}")
        return session

    def _unsealed(self, session: Session, reply: pb.HubFrame) -> pb.HubContent:
        try:
            if not reply.HasField("sealed"):
                # Also a refusal: unsealed, anyone on the way could have said it.
                raise FrameRefused(ExchangeCode.MALFORMED, "an answer that is not sealed")
            content = pb.HubContent()
            content.ParseFromString(session.unseal(reply.sealed))
        except (FrameRefused, DecodeError) as err:
            code = err.code if isinstance(err, FrameRefused) else ExchangeCode.MALFORMED
            raise CryptoError(
                f"an answer of the exchange hub at {self._address} is not the one it sealed "
                f"({code.name}): something on the way opens TLS and changes messages, or the hub "
                "is not the coordinator whose key is pinned. Nothing more is sent on this stream"
            ) from err
        return content


def refusal_of(message: pb.Refusal) -> FrameRefused:
    """The error for a refusal; its text is ours by the code, never the sender's."""
    try:
        code = ExchangeCode(message.code)
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

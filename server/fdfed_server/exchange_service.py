"""Hosts the exchange hub behind gRPC: mutual TLS, sealed frames, one stream per site, one frame at
a time.

The server runs on an event loop in a thread of its own. A site is whoever its client certificate
names; what its messages say about themselves is not asked.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc

from fdfed.errors import ConnectionFailed, InvalidInput
from fdfed.exchange import (
    INSECURE_SITE_HEADER,
    MAX_MESSAGE_BYTES,
    NO_SEALING,
    ExchangeCode,
    FrameRefused,
    HpkePrivateKey,
    NoSealing,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed_server.exchange_conversation import Context, Conversation, parse_site_frame
from fdfed_server.hub import ExchangeHub

log = logging.getLogger(__name__)

_UNWIND_SECONDS: Final = 0.5
_TURN_SECONDS: Final = 2.0
"""Within which the event loop takes up something new, else it counts as standing still."""

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["Exchange"].full_name
_OPTIONS: Final = (
    # A second coordinator on this port must fail, not share the sites with the first.
    ("grpc.so_reuseport", 0),
    # What is larger than a message may be, we refuse by its code; what is larger than this, gRPC.
    ("grpc.max_receive_message_length", 4 * MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 8),
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Idle streams live through whole rounds: pings keep middleboxes from cutting them, and find
    # out within 15 s that a site's connection is gone.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


@dataclass(frozen=True, slots=True)
class _Stream:
    """One site's open stream."""

    conversation: Conversation
    certificate: bytes
    """PEM, as TLS saw it."""
    peer: str


class ExchangeService:
    """The gRPC side of one hub. `start` binds the port, `stop` frees it."""

    def __init__(
        self,
        hub: ExchangeHub,
        *,
        address: str,
        sites: Collection[str],
        server_certificate: bytes | None = None,
        server_key: bytes | None = None,
        ca_certificate: bytes | None = None,
        hpke_key: HpkePrivateKey | NoSealing | None = None,
        insecure: bool = False,
        on_connect: Callable[[str], None] | None = None,
        on_disconnect: Callable[[str], None] | None = None,
        check_certificate: Callable[[str, bytes], None] | None = None,
    ) -> None:
        """
        Args:
            address: `host:port`; port 0 takes a free one, see `port`.
            sites: the names that are admitted. A name is the common name of a client certificate.
            server_certificate: PEM, with its chain.
            server_key: PEM.
            ca_certificate: PEM of the authority that signs the sites' certificates.
            hpke_key: the key to which every site seals. `NO_SEALING` takes frames in clear, as
                `insecure` does without a key: both for tests, and loudly logged.
            insecure: no TLS, and a site is whoever it says it is. For tests.
            on_connect: called, in the service's thread, once a site's stream is open.
            on_disconnect: the same, once it is closed.
            check_certificate: raises `FrameRefused` for a certificate, in PEM, that is not the
                site's any more. None takes whatever the authority has signed: for tests.

        Raises:
            InvalidInput: if a certificate or key is missing, or given together with `insecure`.
        """
        material = (server_certificate, server_key, ca_certificate)
        if insecure and any(material):
            raise InvalidInput("insecure = True takes no certificates; leave out one or the other")
        if not insecure and not all(material):
            raise InvalidInput(
                "the exchange needs server_certificate, server_key and ca_certificate; make them "
                "with `fdfed-server provision`"
            )
        if hpke_key is None and not insecure:
            raise InvalidInput(
                "the exchange needs hpke_key, to which the sites seal their prototypes; it is "
                "hpke.key in the folder that `fdfed-server provision` made for the coordinator"
            )
        self._hub = hub
        self._hpke_key = NO_SEALING if hpke_key is None else hpke_key
        self._address = address
        self._sites = frozenset(sites)
        self._material = material
        self._insecure = insecure
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._check_certificate = check_certificate
        self._streams: dict[str, _Stream] = {}
        """Open streams by site; touched in the event loop alone."""
        # Replaced, never changed: other threads read it.
        self._connected: frozenset[str] = frozenset()
        self._bound: Future[int] = Future()
        self._stop: Callable[[float], None] | None = None
        self._enforce: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def port(self) -> int:
        """The port that is bound, once `start` has returned."""
        return self._bound.result(timeout=0)

    @property
    def connected(self) -> frozenset[str]:
        """Sites whose stream is open now."""
        return self._connected

    def check(self) -> str:
        """For readiness: what keeps the service from answering a site now, if anything does."""
        if self._thread is None or not self._thread.is_alive() or self._loop is None:
            return "is not served"
        turned: Future[None] = Future()
        _soon(self._loop, lambda: turned.set_result(None))
        try:
            turned.result(_TURN_SECONDS)
        except TimeoutError:
            return "is served by a loop that stands still"
        return ""

    def start(self) -> None:
        """Binds the port and serves until `stop`.

        Raises:
            ConnectionFailed: if the port cannot be bound, or the certificates cannot be used.
        """
        self._thread = threading.Thread(target=self._run, name="exchange-service", daemon=True)
        self._thread.start()
        port = self._bound.result()
        if self._insecure:
            log.warning(
                "EXCHANGE WITHOUT TLS on port %d: anyone may pose as any site. Tests only.", port
            )
        else:
            log.info("exchange with mutual TLS on %s (port %d)", self._address, port)
        if self._check_certificate is None and not self._insecure:
            log.warning(
                "EXCHANGE WITHOUT A ROSTER on port %d: nobody is revoked. Tests only.", port
            )
        if isinstance(self._hpke_key, NoSealing):
            log.warning(
                "EXCHANGE NOT SEALED on port %d: whoever opens TLS reads prototypes. Tests only.",
                port,
            )

    def enforce(self) -> None:
        """Checks the certificate of every open stream again, and ends those that do not hold."""
        if self._enforce is not None:
            self._enforce()

    def stop(self, grace: float = 0.5) -> None:
        """Ends all streams, at once or `grace` seconds from now, and frees the port."""
        if self._thread is None:
            return
        if self._stop is not None:
            self._stop(grace)
        self._thread.join()
        self._thread = None

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as err:
            if self._bound.done():
                log.exception("the exchange service ended")
            else:
                self._bound.set_exception(err)

    async def _serve(self) -> None:
        server = grpc.aio.server(options=_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=parse_site_frame,
            response_serializer=pb.HubFrame.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, {"Stream": handler}),)
        )
        port = self._bind(server)
        await server.start()
        loop, stopping = asyncio.get_running_loop(), asyncio.Queue[float]()

        def stop(grace: float) -> None:
            loop.call_soon_threadsafe(stopping.put_nowait, grace)

        self._loop, self._stop = loop, stop
        self._enforce = lambda: _soon(loop, self._dismiss_revoked)
        self._bound.set_result(port)
        await server.stop(await stopping.get())
        # The handlers of the streams just cut still have to run to their end; closing the loop
        # under them would print their cancellation as if it were an error.
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        if rest:
            await asyncio.wait(rest, timeout=_UNWIND_SECONDS)

    def _bind(self, server: Any) -> int:
        try:
            if self._insecure:
                return int(server.add_insecure_port(self._address))
            certificate, key, ca = self._material
            credentials = grpc.ssl_server_credentials(
                [(key, certificate)], root_certificates=ca, require_client_auth=True
            )
            return int(server.add_secure_port(self._address, credentials))
        except RuntimeError as err:
            raise ConnectionFailed(
                f"the exchange cannot listen on {self._address}: {err}. Check that the port is "
                "free, that the address is this machine's, and that key and certificate match"
            ) from err

    async def _stream(self, _requests: Any, context: Context) -> None:
        site = self._identity(context)
        conversation = Conversation(
            self._hub, self._hpke_key, site, context, on_open=lambda: self._opened(site)
        )
        stream = _Stream(conversation, self._certificate(context), context.peer())
        try:
            self._admit(site, stream)
        except FrameRefused as err:
            await conversation.turn_away(err)
            return
        try:
            await conversation.run()
        finally:
            self._release(site)

    def _identity(self, context: Context) -> str:
        if self._insecure:
            metadata = dict(context.invocation_metadata() or ())
            return str(metadata.get(INSECURE_SITE_HEADER, ""))
        names = context.auth_context().get("x509_common_name", [])
        return names[0].decode(errors="replace") if len(names) == 1 else ""

    def _certificate(self, context: Context) -> bytes:
        if self._insecure:
            return b""
        (pem,) = context.auth_context()["x509_pem_cert"]
        return pem

    def _admit(self, site: str, stream: _Stream) -> None:
        if site not in self._sites:
            raise FrameRefused(ExchangeCode.UNKNOWN_SITE)
        self._check(site, stream)
        if site in self._connected:
            raise FrameRefused(
                ExchangeCode.DUPLICATE_STREAM,
                f"from {stream.peer}, while a stream from {self._streams[site].peer} is open: two "
                "agents have one identity, or an old connection is not yet known to be gone",
            )
        self._connected |= {site}
        self._streams[site] = stream

    def _check(self, site: str, stream: _Stream) -> None:
        if self._check_certificate is not None:
            self._check_certificate(site, stream.certificate)

    def _dismiss_revoked(self) -> None:
        for site, stream in tuple(self._streams.items()):
            try:
                self._check(site, stream)
            except FrameRefused as err:
                stream.conversation.dismiss(err)

    def _opened(self, site: str) -> None:
        log.info("site %s: exchange stream open", site)
        if self._on_connect is not None:
            self._on_connect(site)

    def _release(self, site: str) -> None:
        self._hub.disconnect(site)
        self._connected -= {site}
        self._streams.pop(site, None)
        log.info("site %s: exchange stream closed", site)
        if self._on_disconnect is not None:
            self._on_disconnect(site)


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Runs `call` in the loop, which may have ended by now."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)

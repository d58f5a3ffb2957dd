"""Hosts the exchange hub behind gRPC: mutual TLS, one stream per site, one frame at a time.

The server runs on an event loop in a thread of its own. A site is whoever its client certificate
names; what its messages say about themselves is not asked.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any, Final, Protocol

import grpc
from google.protobuf.message import DecodeError

from fdfed.errors import ConnectionFailed, InvalidInput
from fdfed.exchange import (
    INSECURE_SITE_HEADER,
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    ExchangeCode,
    FrameRefused,
    PrototypeFrame,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed_server.hub import ExchangeHub

log = logging.getLogger(__name__)

_UNWIND_SECONDS: Final = 0.5
HELLO_SECONDS: Final = 10.0
"""A stream that has not said Hello by then is closed."""

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["Exchange"].full_name
_OPTIONS: Final = (
    # A second coordinator on this port must fail, not share the sites with the first.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
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


class _Context(Protocol):
    """What is used of gRPC's servicer context, which ships without types."""

    async def read(self) -> Any: ...
    async def write(self, message: pb.HubFrame) -> None: ...
    def auth_context(self) -> dict[str, list[bytes]]: ...
    def invocation_metadata(self) -> Any: ...


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
        insecure: bool = False,
        on_connect: Callable[[str], None] | None = None,
        on_disconnect: Callable[[str], None] | None = None,
    ) -> None:
        """
        Args:
            address: `host:port`; port 0 takes a free one, see `port`.
            sites: the names that are admitted. A name is the common name of a client certificate.
            server_certificate: PEM, with its chain.
            server_key: PEM.
            ca_certificate: PEM of the authority that signs the sites' certificates.
            insecure: no TLS, and a site is whoever it says it is. For tests.
            on_connect: called, in the service's thread, once a site's stream is open.
            on_disconnect: the same, once it is closed.

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
        self._hub = hub
        self._address = address
        self._sites = frozenset(sites)
        self._material = material
        self._insecure = insecure
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        # Replaced, never changed: other threads read it.
        self._connected: frozenset[str] = frozenset()
        self._bound: Future[int] = Future()
        self._stop: Callable[[float], None] | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that is bound, once `start` has returned."""
        return self._bound.result(timeout=0)

    @property
    def connected(self) -> frozenset[str]:
        """Sites whose stream is open now."""
        return self._connected

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
            request_deserializer=_parse,
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

        self._stop = stop
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

    async def _stream(self, _requests: Any, context: _Context) -> None:
        site = self._identity(context)
        try:
            self._admit(site)
        except FrameRefused as err:
            self._hub.count_refusal(site, err)
            await context.write(_refusal(err))
            return
        try:
            await self._converse(site, context)
        finally:
            self._release(site)

    def _identity(self, context: _Context) -> str:
        if self._insecure:
            metadata = dict(context.invocation_metadata() or ())
            return str(metadata.get(INSECURE_SITE_HEADER, ""))
        names = context.auth_context().get("x509_common_name", [])
        return names[0].decode(errors="replace") if len(names) == 1 else ""

    def _admit(self, site: str) -> None:
        if site not in self._sites:
            raise FrameRefused(ExchangeCode.UNKNOWN_SITE)
        if site in self._connected:
            raise FrameRefused(ExchangeCode.DUPLICATE_STREAM)
        self._connected |= {site}

    def _release(self, site: str) -> None:
        self._hub.disconnect(site)
        self._connected -= {site}
        log.info("site %s: exchange stream closed", site)
        if self._on_disconnect is not None:
            self._on_disconnect(site)

    async def _converse(self, site: str, context: _Context) -> None:
        refusal = await self._greet(context)
        if refusal is not None:
            self._hub.count_refusal(site, refusal)
            await context.write(_refusal(refusal))
            return
        self._hub.connect(site)
        welcome = pb.Welcome(protocol_version=PROTOCOL_VERSION, site=site)
        await context.write(pb.HubFrame(welcome=welcome))
        log.info("site %s: exchange stream open", site)
        if self._on_connect is not None:
            self._on_connect(site)
        # The next frame is read when this one is answered: a site cannot queue work at the hub.
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(await self._answer(site, message))

    async def _greet(self, context: _Context) -> FrameRefused | None:
        try:
            message = await asyncio.wait_for(context.read(), HELLO_SECONDS)
        except TimeoutError:
            return FrameRefused(ExchangeCode.MALFORMED, "no Hello in time")
        if not isinstance(message, pb.SiteFrame) or message.WhichOneof("frame") != "hello":
            return FrameRefused(ExchangeCode.MALFORMED, "the first frame is not Hello")
        if message.hello.protocol_version != PROTOCOL_VERSION:
            return FrameRefused(
                ExchangeCode.WRONG_PROTOCOL,
                f"version {message.hello.protocol_version}, here {PROTOCOL_VERSION}",
            )
        return None

    async def _answer(self, site: str, message: pb.SiteFrame | None) -> pb.HubFrame:
        if message is None or message.WhichOneof("frame") != "prototypes":
            refusal = FrameRefused(ExchangeCode.MALFORMED, "not a frame of prototypes")
            self._hub.count_refusal(site, refusal)
            return _refusal(refusal)
        try:
            frame = PrototypeFrame.from_proto(message.prototypes)
        except FrameRefused as err:
            self._hub.count_refusal(site, err)
            return _refusal(err)
        try:
            reply = await asyncio.wrap_future(self._hub.submit(site, frame))
        except FrameRefused as err:
            return _refusal(err, frame)
        return pb.HubFrame(cotangents=reply.to_proto())


def _parse(data: bytes) -> pb.SiteFrame | None:
    """The message in a stranger's bytes, or `None`: the stream then answers MALFORMED."""
    message = pb.SiteFrame()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return None
    return message


def _refusal(refusal: FrameRefused, frame: PrototypeFrame | None = None) -> pb.HubFrame:
    return pb.HubFrame(
        refusal=pb.Refusal(
            code=f"CODE_{refusal.code.name}",
            message=refusal.code.public_message,
            key=frame.key.to_proto() if frame is not None else None,
        )
    )

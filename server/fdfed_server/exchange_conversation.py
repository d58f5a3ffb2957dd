"""What the hub and one site say to each other on a stream: challenge, opening, then frame by frame.

Nothing is taken from a site before its session is open, and after a sealed frame that is not in
order nothing more is: the refusal is the last word on that stream, and the other sites go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, Protocol

import grpc
from google.protobuf.message import DecodeError

from fdfed.config import MAX_STALENESS
from fdfed.exchange import (
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    CotangentFrame,
    ExchangeCode,
    FrameRefused,
    HpkePrivateKey,
    NoSealing,
    PrototypeFrame,
    Session,
    accept_session,
    new_challenge,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed_server.hub import ExchangeHub

HELLO_SECONDS: Final = 10.0
"""A stream that has not said Hello by then is closed."""


_Answer = Callable[[], Awaitable[pb.HubContent]]
_Answers = asyncio.Queue[_Answer]


class Context(Protocol):
    """What is used of gRPC's servicer context, which ships without types."""

    async def read(self) -> Any: ...
    async def write(self, message: pb.HubFrame) -> None: ...
    def auth_context(self) -> dict[str, list[bytes]]: ...
    def invocation_metadata(self) -> Any: ...
    def peer(self) -> str: ...


class Conversation:
    """One site's stream, from the challenge to its end."""

    def __init__(
        self,
        hub: ExchangeHub,
        key: HpkePrivateKey | NoSealing,
        site: str,
        context: Context,
        *,
        on_open: Callable[[], None],
    ) -> None:
        """
        Args:
            hub: answers the frames.
            key: opens the site's session.
            site: as its certificate names it.
            context: the stream.
            on_open: called once the session is open.
        """
        self._hub = hub
        self._key = key
        self._site = site
        self._context = context
        self._on_open = on_open
        self._turn = asyncio.Lock()
        self._dismissal: FrameRefused | None = None
        self._dismissed = asyncio.Event()

    def dismiss(self, refusal: FrameRefused) -> None:
        """Ends the stream with this refusal as its last word; to be called in its event loop."""
        self._dismissal = refusal
        self._dismissed.set()

    async def run(self) -> None:
        """Talks until the site hangs up or breaks the rules of sealing."""
        try:
            session = await self._greet()
        except FrameRefused as err:
            await self.turn_away(err)
            return
        welcome = pb.Welcome(protocol_version=PROTOCOL_VERSION, site=self._site)
        # Sealed as all that follows: no one but the holder of the private key can say it.
        await self._write(session, pb.HubContent(welcome=welcome))
        self._on_open()
        answers: _Answers = asyncio.Queue(MAX_STALENESS)
        # If one of the two fails, the other ends, and the stream with it.
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write_all(session, answers))
            reading = group.create_task(self._read_all(session, answers))
            leaving = group.create_task(self._dismissed.wait())
            await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
            # With the turn: a sealed frame that was cut short would look like an attack.
            async with self._turn:
                for task in (writing, reading, leaving):
                    task.cancel()
                if self._dismissal is not None:
                    refusal = pb.HubContent(refusal=self._refuse(self._dismissal))
                    await self._context.write(_sealed(session, refusal))

    async def _read_all(self, session: Session, answers: _Answers) -> None:
        """Takes the site's frames as they come. Reading stops while the queue is full, so that a
        site cannot pile up work at the hub; how many frames a round lets wait is the hub's."""
        while (message := await self._context.read()) is not grpc.aio.EOF:
            try:
                content = _unsealed(session, message)
            except FrameRefused as err:
                await self._write(session, pb.HubContent(refusal=self._refuse(err)))
                return
            await answers.put(self._answer(content))

    async def _write_all(self, session: Session, answers: _Answers) -> None:
        """Writes the answers in the order of the frames, each as soon as it and those before it
        are there."""
        while True:
            answer = await answers.get()
            await self._write(session, await answer())

    async def turn_away(self, refusal: FrameRefused) -> None:
        """Refuses the site before there is a session, so in clear."""
        await self._context.write(pb.HubFrame(refusal=self._refuse(refusal)))

    async def _greet(self) -> Session:
        nonce = new_challenge()
        challenge = pb.Challenge(protocol_version=PROTOCOL_VERSION, nonce=nonce)
        await self._context.write(pb.HubFrame(challenge=challenge))
        try:
            message = await asyncio.wait_for(self._context.read(), HELLO_SECONDS)
        except TimeoutError:
            raise FrameRefused(ExchangeCode.MALFORMED, "no Hello in time") from None
        if isinstance(message, FrameRefused):
            raise message
        if not isinstance(message, pb.SiteFrame) or message.WhichOneof("frame") != "hello":
            raise FrameRefused(ExchangeCode.MALFORMED, "the first frame is not Hello")
        if message.hello.protocol_version != PROTOCOL_VERSION:
            raise FrameRefused(
                ExchangeCode.WRONG_PROTOCOL,
                f"version {message.hello.protocol_version}, here {PROTOCOL_VERSION}",
            )
        return accept_session(self._key, site=self._site, challenge=nonce, hello=message.hello)

    def _answer(self, content: bytes) -> _Answer:
        """Hands a frame to the hub, at once; the result waits for what is to be said to it."""
        try:
            frame = _prototypes(content)
        except FrameRefused as err:
            return partial(_said, pb.HubContent(refusal=self._refuse(err)))
        return partial(_when_done, self._hub.submit(self._site, frame), frame)

    async def _write(self, session: Session, content: pb.HubContent) -> None:
        # Sealed in the order in which it is sent.
        async with self._turn:
            await self._context.write(_sealed(session, content))

    def _refuse(self, refusal: FrameRefused) -> pb.Refusal:
        self._hub.count_refusal(self._site, refusal)
        return _refusal(refusal)


def parse_site_frame(data: bytes) -> pb.SiteFrame | FrameRefused:
    """The message in a stranger's bytes, or why there is none: gRPC, which calls this, would let
    an exception end the stream without a word."""
    if len(data) > MAX_MESSAGE_BYTES:
        return FrameRefused(ExchangeCode.TOO_LARGE, f"a message of {len(data)} bytes")
    message = pb.SiteFrame()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return FrameRefused(ExchangeCode.MALFORMED, "the message cannot be parsed")
    return message


def _sealed(session: Session, content: pb.HubContent) -> pb.HubFrame:
    return pb.HubFrame(sealed=session.seal(content.SerializeToString()))


def _unsealed(session: Session, message: pb.SiteFrame | FrameRefused) -> bytes:
    if isinstance(message, FrameRefused):
        raise message
    if message.WhichOneof("frame") != "sealed":
        raise FrameRefused(ExchangeCode.MALFORMED, "not a sealed frame")
    return session.unseal(message.sealed)


def _prototypes(data: bytes) -> PrototypeFrame:
    content = pb.SiteContent()
    try:
        content.ParseFromString(data)
    except DecodeError as err:
        raise FrameRefused(ExchangeCode.MALFORMED, "the content cannot be parsed") from err
    if content.WhichOneof("content") != "prototypes":
        raise FrameRefused(ExchangeCode.MALFORMED, "not a frame of prototypes")
    return PrototypeFrame.from_proto(content.prototypes)


async def _said(content: pb.HubContent) -> pb.HubContent:
    return content


async def _when_done(future: Future[CotangentFrame], frame: PrototypeFrame) -> pb.HubContent:
    try:
        reply = await asyncio.wrap_future(future)
        return pb.HubContent(cotangents=reply.to_proto())
    except FrameRefused as err:
        # The hub has counted it.
        return pb.HubContent(refusal=_refusal(err, frame))


def _refusal(refusal: FrameRefused, frame: PrototypeFrame | None = None) -> pb.Refusal:
    return pb.Refusal(
        code=f"CODE_{refusal.code.name}",
        message=refusal.code.public_message,
        key=frame.key.to_proto() if frame is not None else None,
    )

"""What a stream's first words do to the hub, without gRPC; and that no bytes from outside raise
anything but our own refusals."""

import asyncio
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fdfed_server.exchange_conversation
from fdfed.exchange import (
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    ExchangeCode,
    FrameRefused,
    HpkePrivateKey,
    HpkeSuite,
    accept_session,
    open_session,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed_server.exchange_conversation import Conversation, parse_site_frame
from fdfed_server.hub import ExchangeHub
from fdfed_server.terms import cross_site_terms

KEY = HpkePrivateKey.generate(HpkeSuite.X25519)


class Context:
    """A stream on which the test speaks for the site."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.outgoing: asyncio.Queue[pb.HubFrame] = asyncio.Queue()

    async def read(self) -> Any:
        return await self.incoming.get()

    async def write(self, message: pb.HubFrame) -> None:
        await self.outgoing.put(message)

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def invocation_metadata(self) -> Any:
        return ()


@pytest.fixture
def hub() -> Any:
    hub = ExchangeHub(cross_site_terms)
    yield hub
    hub.close()


def _conversation(hub: ExchangeHub, context: Context, opened: list[str]) -> Conversation:
    return Conversation(hub, KEY, "ad", context, on_open=lambda: opened.append("ad"))


async def _talk(hub: ExchangeHub, opened: list[str], *contents: bytes) -> list[pb.HubContent]:
    """Opens a session as an honest site does, sends the contents, hangs up."""
    context = Context()
    running = asyncio.create_task(_conversation(hub, context, opened).run())
    challenge = (await context.outgoing.get()).challenge
    session, hello = open_session(KEY.public, site="ad", challenge=challenge.nonce)
    await context.incoming.put(pb.SiteFrame(hello=hello))
    answers = [session.unseal((await context.outgoing.get()).sealed)]
    for content in contents:
        await context.incoming.put(pb.SiteFrame(sealed=session.seal(content)))
        answers.append(session.unseal((await context.outgoing.get()).sealed))
    await context.incoming.put(grpc.aio.EOF)
    await running
    return [pb.HubContent.FromString(answer) for answer in answers]


def test_the_first_sealed_word_is_welcome_and_names_the_site(hub: ExchangeHub) -> None:
    opened: list[str] = []
    (answer,) = asyncio.run(_talk(hub, opened))
    assert (answer.welcome.protocol_version, answer.welcome.site) == (PROTOCOL_VERSION, "ad")
    assert opened == ["ad"]


@settings(deadline=None, max_examples=50)
@given(contents=st.lists(st.binary(max_size=200), max_size=4))
def test_sealed_noise_is_answered_refusal_by_refusal(contents: list[bytes]) -> None:
    hub = ExchangeHub(cross_site_terms)
    try:
        answers = asyncio.run(_talk(hub, [], *contents))
        assert [answer.WhichOneof("content") for answer in answers[1:]] == ["refusal"] * len(
            contents
        )
        assert sum(hub.snapshot().refused.values()) == len(contents)
    finally:
        hub.close()


def test_a_site_that_says_nothing_is_turned_away_in_time(
    hub: ExchangeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fdfed_server.exchange_conversation, "HELLO_SECONDS", 0.01)
    context, opened = Context(), []  # type: ignore[var-annotated]
    asyncio.run(_conversation(hub, context, opened).run())
    words = [context.outgoing.get_nowait() for _ in range(context.outgoing.qsize())]
    assert [word.WhichOneof("frame") for word in words] == ["challenge", "refusal"]
    assert hub.snapshot().refused == {ExchangeCode.MALFORMED: 1}
    assert not opened


def test_no_challenge_is_given_twice(hub: ExchangeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fdfed_server.exchange_conversation, "HELLO_SECONDS", 0.0)
    nonces = set()
    for _ in range(20):
        context = Context()
        asyncio.run(_conversation(hub, context, []).run())
        nonces.add(context.outgoing.get_nowait().challenge.nonce)
    assert len(nonces) == 20
    assert {len(nonce) for nonce in nonces} == {32}


@settings(deadline=None, max_examples=500)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_refusal(data: bytes) -> None:
    message = parse_site_frame(data)
    if isinstance(message, FrameRefused):
        assert message.code is ExchangeCode.MALFORMED


def test_bytes_beyond_the_limit_are_not_even_parsed() -> None:
    message = parse_site_frame(bytes(MAX_MESSAGE_BYTES + 1))
    assert isinstance(message, FrameRefused)
    assert message.code is ExchangeCode.TOO_LARGE


@settings(deadline=None, max_examples=300)
@given(
    suite=st.one_of(st.just("x25519"), st.text(max_size=20)),
    opening=st.one_of(st.binary(max_size=120), st.binary(min_size=80, max_size=80)),
)
def test_any_hello_is_refused_by_a_code_unless_it_was_sealed_to_the_key(
    suite: str, opening: bytes
) -> None:
    hello = pb.Hello(protocol_version=PROTOCOL_VERSION, suite=suite, opening=opening)
    with pytest.raises(FrameRefused) as caught:
        accept_session(KEY, site="ad", challenge=bytes(32), hello=hello)
    assert caught.value.code in (ExchangeCode.WRONG_SUITE, ExchangeCode.BAD_OPENING)

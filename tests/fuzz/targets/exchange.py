"""What the hub reads of a site, and a site of the hub, on the exchange's stream."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from fdfed.exchange import (
    CotangentFrame,
    FrameRefused,
    HpkeSuite,
    PrototypeFrame,
    StepKey,
    accept_session,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed_client.exchange_link import refusal_of
from fdfed_server.exchange_conversation import _prototypes, parse_site_frame
from tests.fuzz.parties import NONCE, hpke_key, session_pair
from tests.fuzz.target import Target

HUB_KEYS = {suite.value: hpke_key(0, suite) for suite in HpkeSuite}


def _site_frame(data: bytes) -> pb.SiteFrame:
    frame = parse_site_frame(data)
    if isinstance(frame, FrameRefused):
        raise frame
    return frame


def opening(data: bytes) -> None:
    """The greeting, and with it the session."""
    hello = _site_frame(data).hello
    key = HUB_KEYS.get(hello.suite, HUB_KEYS["x25519"])
    session = accept_session(key, site="ad", challenge=NONCE, hello=hello)
    assert session.seal(b"welcome").counter == 0


def sealed(data: bytes) -> None:
    """A sealed frame, twice: the session opens it once at most."""
    _, hub = session_pair()
    frame = _site_frame(data).sealed
    content = hub.unseal(frame)
    assert len(content) == frame.length
    try:
        hub.unseal(frame)
    except FrameRefused:
        return
    raise AssertionError("a replayed frame was opened")


def prototypes(data: bytes) -> None:
    """The content of a site's frame."""
    frame = _prototypes(data)
    again = PrototypeFrame.from_proto(frame.to_proto())
    assert again.key == frame.key
    assert again.vector.tobytes() == frame.vector.tobytes()


def answer(data: bytes) -> None:
    """The content of the hub's answer, as `ExchangeStream` reads it."""
    content = pb.HubContent()
    content.ParseFromString(data)
    kind = content.WhichOneof("content")
    if kind == "refusal":
        assert str(refusal_of(content.refusal))
    elif kind == "cotangents":
        frame = CotangentFrame.from_proto(content.cotangents)
        frame.vector[:] = 0
        assert isinstance(frame.key, StepKey)


_REFUSALS = (FrameRefused,)
_CONVERSATION = "server/fdfed_server/exchange_conversation.py"

TARGETS = (
    Target(
        "exchange-opening", opening, _REFUSALS, ("fdfed/exchange/sealing.py", _CONVERSATION), cost=4
    ),
    Target("exchange-sealed", sealed, _REFUSALS, ("fdfed/exchange/sealing.py", _CONVERSATION)),
    Target("exchange-prototypes", prototypes, _REFUSALS, ("fdfed/exchange/frames.py",)),
    Target("exchange-answer", answer, (*_REFUSALS, DecodeError), ("fdfed/exchange/frames.py",)),
)

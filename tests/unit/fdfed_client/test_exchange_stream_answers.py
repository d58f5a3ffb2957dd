from collections.abc import Callable

import numpy as np
import pytest

import fdfed_client.exchange
from fdfed.errors import ConnectionFailed, InvalidInput
from fdfed.exchange import CotangentFrame, ExchangeCode, FrameRefused, PrototypeFrame, StepKey
from fdfed.exchange import exchange_pb2 as pb
from fdfed_client.exchange import ExchangeStream
from fdfed_client.exchange_identity import InsecureIdentity
from fdfed_client.exchange_link import Answer, HubUnavailable

KEY = StepKey("run", 1, 0, 4)
FRAME = PrototypeFrame(KEY, np.ones(4, np.float32), np.ones(1, np.bool_))

Reply = Callable[[pb.SiteContent], pb.HubContent]


class Link:
    """Answers as the test says."""

    answer: Reply

    def __init__(self, *_: object, **__: object) -> None:
        self.closed = False

    def ask(self, content: pb.SiteContent) -> Answer:
        reply = type(self).answer(content)
        return Answer(reply, content.ByteSize(), reply.ByteSize())

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> ExchangeStream:
    monkeypatch.setattr(fdfed_client.exchange, "ExchangeLink", Link)
    return ExchangeStream("hub:8444", InsecureIdentity(site="ad"), reply_seconds=1.0)


def _cotangents(
    key: StepKey = KEY, *, size: int = 4, taps: int = 1, dtype: type = np.float32
) -> pb.HubContent:
    frame = CotangentFrame(key, np.full(size, 0.5, dtype), np.zeros(taps), np.zeros(taps), 1)
    return pb.HubContent(cotangents=frame.to_proto())


def _refusal(code: int) -> pb.HubContent:
    return pb.HubContent(refusal=pb.Refusal(code=code, message="from the hub"))  # type: ignore[arg-type]


def _answers(reply: pb.HubContent) -> None:
    Link.answer = staticmethod(lambda _message: reply)


def test_an_answer_that_fits_is_returned_and_counted(stream: ExchangeStream) -> None:
    _answers(_cotangents())
    reply = stream.swap(FRAME)
    assert reply is not None
    assert reply.vector.tolist() == [0.5] * 4
    stats = stream.take_stats()
    assert (stats.steps, stats.answered, stats.peers_mean) == (1, 1, 1.0)
    assert stats.bytes_up == pb.SiteContent(prototypes=FRAME.to_proto()).ByteSize()
    assert stats.bytes_down == _cotangents().ByteSize()


@pytest.mark.parametrize(
    "reply",
    [
        _cotangents(StepKey("run", 1, 0, 5)),
        _cotangents(StepKey("other", 1, 0, 4)),
        _cotangents(size=6),
        _cotangents(taps=2),
        _cotangents(dtype=np.float64),
        pb.HubContent(cotangents=pb.Cotangents(payload=b"\xff")),
        pb.HubContent(welcome=pb.Welcome(protocol_version=1)),
        pb.HubContent(),
    ],
)
def test_an_answer_that_does_not_fit_drops_the_step_and_the_log_says_why(
    stream: ExchangeStream, reply: pb.HubContent, caplog: pytest.LogCaptureFixture
) -> None:
    _answers(reply)
    assert stream.swap(FRAME) is None
    assert "an answer that cannot be used" in caplog.text
    assert stream.swap(FRAME) is None, "at once: the link is gone"
    assert stream.take_stats().dropped == 2


@pytest.mark.parametrize("code", list(ExchangeCode))
def test_a_refusal_drops_the_step_or_is_an_error_by_its_code(
    stream: ExchangeStream, code: ExchangeCode
) -> None:
    _answers(_refusal(code))
    if code.drops_the_step:
        assert stream.swap(FRAME) is None
    else:
        with pytest.raises(FrameRefused) as caught:
            stream.swap(FRAME)
        assert caught.value.code is code
        assert "from the hub" not in str(caught.value), "the text is ours, never the sender's"
    assert stream.take_stats().dropped == 1


def test_a_refusal_of_a_code_from_the_future_is_an_error(stream: ExchangeStream) -> None:
    _answers(_refusal(99))
    with pytest.raises(FrameRefused, match="MALFORMED"):
        stream.swap(FRAME)


def test_a_lost_connection_drops_the_step(stream: ExchangeStream) -> None:
    def lost(_message: pb.SiteContent) -> pb.HubContent:
        raise HubUnavailable("cut")

    Link.answer = staticmethod(lost)
    assert stream.swap(FRAME) is None
    assert stream.swap(FRAME) is None
    stats = stream.take_stats()
    assert (stats.steps, stats.dropped) == (2, 2)


def test_an_identity_that_is_not_accepted_is_an_error(stream: ExchangeStream) -> None:
    def refused(_message: pb.SiteContent) -> pb.HubContent:
        raise ConnectionFailed("who are you")

    Link.answer = staticmethod(refused)
    with pytest.raises(ConnectionFailed, match="who are you"):
        stream.swap(FRAME)


def test_a_step_that_overflowed_is_dropped_without_being_sent(stream: ExchangeStream) -> None:
    frame = PrototypeFrame(KEY, np.full(4, np.inf, np.float32), np.ones(1, np.bool_))
    assert stream.swap(frame) is None
    stats = stream.take_stats()
    assert (stats.dropped, stats.bytes_up) == (1, 0)


def test_waits_of_no_length_are_refused() -> None:
    with pytest.raises(InvalidInput, match="must be above 0"):
        ExchangeStream("hub:1", InsecureIdentity(site="ad"), reply_seconds=0.0)

"""A site's way to the exchange hub: one stream over all rounds, which never stops the training.

A hub that is down costs one bounded wait at the first step of a round; after that every step drops
its term at once until the hub is back. So does one whose answers cannot be used. A hub that does
not accept the site, or does not agree on what is exchanged, is an error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from fdfed.errors import ConnectionFailed, InvalidInput
from fdfed.exchange import (
    CotangentFrame,
    ExchangeCode,
    ExchangeStats,
    FrameRefused,
    PrototypeFrame,
    StatsRecorder,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed_client.egress import FrameGate
from fdfed_client.exchange_connection import ExchangeConnection, may_pass
from fdfed_client.exchange_identity import InsecureIdentity, SiteIdentity
from fdfed_client.exchange_late import LateReplies, Traffic
from fdfed_client.exchange_link import Answer, ExchangeLink, HubUnavailable, refusal_of

log = logging.getLogger(__name__)


class ExchangeStream:
    """One site's `Exchange` over gRPC. Connects with the first `swap`, or with `connect`."""

    def __init__(
        self,
        address: str,
        identity: SiteIdentity | InsecureIdentity | Callable[[], SiteIdentity],
        *,
        reply_seconds: float,
        connect_seconds: float = 5.0,
        round_wait_seconds: float = 0.0,
        max_staleness: int = 0,
        gate: FrameGate | None = None,
        on_answer: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """
        Args:
            address: `host:port` of the hub.
            identity: the site's certificate, key and CA, and the coordinator's key to seal to; a
                function is asked anew for every connection.
            reply_seconds: how long to wait for an answer; longer than the hub's own deadline, at
                which it answers in any case.
            connect_seconds: how long one attempt to connect may take.
            round_wait_seconds: for so long the first step of a round tries to connect; it makes one
                attempt in any case.
            max_staleness: steps by which a reply may be late: `swap` then only waits where no
                reply is that new.
            gate: clears each frame before it leaves; None is for tests.
            on_answer: told of each answered step the seconds that it waited.
        """
        if not (reply_seconds > 0 and connect_seconds > 0):
            raise InvalidInput(
                f"reply_seconds is {reply_seconds} and connect_seconds {connect_seconds}; both "
                "must be above 0"
            )
        self._address = address
        self._stats = StatsRecorder(on_answer)
        self._round_wait_seconds = round_wait_seconds
        self._max_staleness = max_staleness
        self._late = LateReplies(max_staleness, reply_seconds=reply_seconds, read=self._read)
        self._connection = ExchangeConnection(
            lambda: ExchangeLink(
                address,
                identity() if callable(identity) else identity,
                connect_seconds=connect_seconds,
                reply_seconds=reply_seconds,
                gate=gate,
            )
        )

    def connect(self) -> None:
        """Opens the stream now, if it is not open, and says what is wrong if it cannot be.

        Raises:
            HubUnavailable: if the hub is not there; `swap` will go on trying.
            ConnectionFailed: if it is, and one side does not accept the other.
        """
        self._connection.open()

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        """The cotangents for `frame`, or late ones; `None` if the term of this step is dropped.

        Waits at most `reply_seconds`, and at the first step of a round to connect before.

        Raises:
            FrameRefused: if hub and site do not agree on what they exchange.
            ConnectionFailed: if one side does not accept the other's identity.
        """
        return self._swap_late(frame) if self._max_staleness else self._swap_in_step(frame)

    def _swap_late(self, frame: PrototypeFrame) -> CotangentFrame | None:
        start, traffic = time.perf_counter(), Traffic()
        try:
            content = pb.SiteContent(prototypes=frame.to_proto())
            link = self._link_for(frame)
            self._post_and_take(link, content, frame, traffic)
        except FrameRefused as err:
            self._stats.dropped(bytes_up=traffic.up, bytes_down=traffic.down)
            if not may_pass(err):
                raise
            return None  # prototypes that overflowed, which are not sent
        except ConnectionFailed as err:
            if not may_pass(err):
                self._stats.dropped(bytes_up=traffic.up, bytes_down=traffic.down)
                raise
            log.debug("step %d: %s", frame.key.step, err)
        reply = self._late.newest.at(frame.key)
        if reply is None:
            self._stats.dropped(bytes_up=traffic.up, bytes_down=traffic.down)
            return None
        self._stats.answered(
            peers=reply.peers,
            seconds=time.perf_counter() - start,
            bytes_up=traffic.up,
            bytes_down=traffic.down,
            staleness=frame.key.step - reply.key.step,
        )
        return reply

    def _post_and_take(
        self, link: ExchangeLink, content: pb.SiteContent, frame: PrototypeFrame, traffic: Traffic
    ) -> None:
        try:
            self._late.swap(link, content, frame, traffic)
        except FrameRefused:
            raise  # the link is as good as before, or `_read` has dropped it
        except ConnectionFailed as err:
            self._connection.drop(link, err)
            raise

    def _swap_in_step(self, frame: PrototypeFrame) -> CotangentFrame | None:
        start = time.perf_counter()
        sent = received = 0
        try:
            content = pb.SiteContent(prototypes=frame.to_proto())
            link = self._link_for(frame)
            sent = content.ByteSize()
            reply = self._ask(link, content)
            sent, received = reply.bytes_up, reply.bytes_down
            answer = self._read(link, reply.content, frame)
        except ConnectionFailed as err:
            self._stats.dropped(bytes_up=sent, bytes_down=received)
            if not may_pass(err):
                raise
            log.debug("step %d: %s", frame.key.step, err)
            return None
        self._stats.answered(
            peers=answer.peers,
            seconds=time.perf_counter() - start,
            bytes_up=sent,
            bytes_down=received,
        )
        return answer

    def take_stats(self) -> ExchangeStats:
        """The counters since the last call."""
        return self._stats.take()

    def close(self) -> None:
        """Ends the stream. A later `swap` opens it anew."""
        self._connection.close()

    def _link_for(self, frame: PrototypeFrame) -> ExchangeLink:
        # What cut the stream between two rounds has mostly passed when the second begins: a
        # coordinator that was started again is there, since it has asked for the round.
        if frame.key.step == 0:
            return self._connection.open_within(self._round_wait_seconds)
        return self._connection.link()

    def _ask(self, link: ExchangeLink, content: pb.SiteContent) -> Answer:
        try:
            return link.ask(content)
        except ConnectionFailed as err:
            self._connection.drop(link, err)
            raise

    def _read(
        self, link: ExchangeLink, reply: pb.HubContent, frame: PrototypeFrame
    ) -> CotangentFrame:
        kind = reply.WhichOneof("content")
        if kind == "refusal":
            refusal = refusal_of(reply.refusal)
            if refusal.code.ends_the_stream:
                self._connection.drop(link, refusal)
            raise refusal
        try:
            if kind != "cotangents":
                raise FrameRefused(ExchangeCode.MALFORMED, "an answer of another kind")
            answer = CotangentFrame.from_proto(reply.cotangents)
            _check_fits(answer, frame)
        except FrameRefused as err:
            # Training goes on, and the log says at once that this hub errs.
            wrong = HubUnavailable(
                f"the exchange hub at {self._address} gave an answer that cannot be used "
                f"({err.code.name}: {err.detail}); hub and site need the same fdfed version and run"
            )
            self._connection.drop(link, wrong)
            raise wrong from err
        return answer


def _check_fits(answer: CotangentFrame, frame: PrototypeFrame) -> None:
    if answer.key != frame.key:
        raise FrameRefused(ExchangeCode.WRONG_STEP, "an answer to another step")
    if answer.vector.dtype != frame.vector.dtype:
        raise FrameRefused(ExchangeCode.WRONG_TYPE, f"cotangents in {answer.vector.dtype}")
    if answer.vector.shape != frame.vector.shape or answer.pair_terms.shape != frame.valid.shape:
        raise FrameRefused(
            ExchangeCode.WRONG_SHAPE,
            f"{answer.vector.size} cotangents and {answer.pair_terms.size} terms for "
            f"{frame.vector.size} prototypes of {frame.valid.size} taps",
        )

"""Replies that may be late: frames go out one after the other, and come back when they come back.

The hub answers a stream's frames in their order, each once, so that the next answer belongs to the
oldest frame that has none.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from fdfed.exchange import CotangentFrame, FrameRefused, NewestReply, PrototypeFrame
from fdfed.exchange import exchange_pb2 as pb
from fdfed_client.exchange_link import ExchangeLink, HubUnavailable

Read = Callable[[ExchangeLink, pb.HubContent, PrototypeFrame], CotangentFrame]
"""The cotangents in an answer to a frame; raises `FrameRefused` where the hub refused it."""


@dataclass(slots=True)
class Traffic:
    """Bytes of messages during one step."""

    up: int = 0
    down: int = 0


class _Sent(NamedTuple):
    frame: PrototypeFrame
    due: float
    """When its answer is overdue, of `time.monotonic`."""


class LateReplies:
    """A site's frames that wait for their answer, at most `max_staleness` + 1, and the newest
    reply."""

    def __init__(self, max_staleness: int, *, reply_seconds: float, read: Read) -> None:
        """
        Args:
            reply_seconds: how long the hub may take to answer a frame.
            read: takes an answer apart.
        """
        self.newest = NewestReply(max_staleness)
        self._reply_seconds = reply_seconds
        self._read = read
        self._link: ExchangeLink | None = None
        self._sent: deque[_Sent] = deque()

    def swap(
        self, link: ExchangeLink, content: pb.SiteContent, frame: PrototypeFrame, traffic: Traffic
    ) -> None:
        """Posts the frame and takes what has come; waits while nothing that may serve at this step
        is there and something still may come. `newest` has it afterwards.

        Raises:
            HubUnavailable: if the link is lost, or an answer overdue.
            FrameRefused: if the hub refused a frame for more than its step.
        """
        if link is not self._link:
            # The hub withdrew what it had not answered on the old one.
            self._link = link
            self._sent.clear()
        traffic.up += link.post(content)
        self._sent.append(_Sent(frame, time.monotonic() + self._reply_seconds))
        while self._sent and self._take_one(link, frame, traffic):
            pass

    def _take_one(self, link: ExchangeLink, frame: PrototypeFrame, traffic: Traffic) -> bool:
        """Takes the next answer, and whether to look for another."""
        oldest = self._sent[0]
        must_wait = self.newest.at(frame.key) is None
        answer = link.take(oldest.due if must_wait else 0.0)
        if answer is None:
            if time.monotonic() >= oldest.due:
                raise HubUnavailable(f"no answer to a frame within {self._reply_seconds:g} s")
            return False
        self._sent.popleft()
        traffic.down += answer.bytes_down
        try:
            self.newest.offer(self._read(link, answer.content, oldest.frame))
        except FrameRefused as err:
            if not err.code.drops_the_step or err.code.ends_the_stream:
                raise
        return True

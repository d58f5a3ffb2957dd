"""A site's way to a hub in the same process, for the simulation: no wire, the same rules."""

from __future__ import annotations

import time

from fdfed.exchange import (
    CotangentFrame,
    ExchangeStats,
    FrameRefused,
    PrototypeFrame,
    StatsRecorder,
)
from fdfed_server.hub import ExchangeHub


class InProcessExchange:
    """One site's `Exchange` on a hub. Each site needs a thread of its own: `swap` waits."""

    def __init__(self, hub: ExchangeHub, site: str) -> None:
        self._hub = hub
        self._site = site
        self._stats = StatsRecorder()
        hub.connect(site)

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        """The cotangents, or `None` where the hub drops the term of this step.

        Raises:
            FrameRefused: when hub and site do not agree on what they exchange.
        """
        start = time.perf_counter()
        try:
            # The hub ends every future, at the step's deadline if not before.
            reply = self._hub.submit(self._site, frame).result()
        except FrameRefused as err:
            self._stats.dropped(bytes_up=frame.nbytes)
            if not err.code.drops_the_step:
                raise
            return None
        self._stats.answered(
            peers=reply.peers,
            seconds=time.perf_counter() - start,
            bytes_up=frame.nbytes,
            bytes_down=reply.nbytes,
        )
        return reply

    def take_stats(self) -> ExchangeStats:
        """The counters since the last call."""
        return self._stats.take()

    def close(self) -> None:
        """The others wait for this site no longer."""
        self._hub.disconnect(self._site)

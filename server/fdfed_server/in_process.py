"""A site's way to a hub in the same process, for the simulation: no wire, the same rules."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future

from fdfed.exchange import (
    CotangentFrame,
    ExchangeStats,
    FrameRefused,
    ModelledDelay,
    PrototypeFrame,
    StatsRecorder,
    StepKey,
    staleness,
)
from fdfed_server.hub import ExchangeHub


class InProcessExchange:
    """One site's `Exchange` on a hub. Each site needs a thread of its own: `swap` waits.

    Which reply serves at a step follows from `ModelledDelay` alone, never from which thread was
    faster, so that a simulation with stale replies repeats bit for bit.
    """

    def __init__(
        self, hub: ExchangeHub, site: str, *, max_staleness: int = 0, delay_steps: float = 0.0
    ) -> None:
        """
        Args:
            max_staleness: steps by which a reply may be late.
            delay_steps: how long every reply takes, in steps of training.
        """
        self._hub = hub
        self._site = site
        self._max_staleness = max_staleness
        self._delay_steps = delay_steps
        self._stats = StatsRecorder()
        self._last: StepKey | None = None
        self._begin_round()

    def _begin_round(self) -> None:
        # The futures of the steps whose reply may still serve, the newest last.
        self._futures: deque[Future[CotangentFrame]] = deque(maxlen=self._max_staleness + 1)
        self._clock = ModelledDelay(
            delay_steps=self._delay_steps, max_staleness=self._max_staleness
        )

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        """The cotangents, or `None` where the hub drops the term of this step.

        Raises:
            FrameRefused: when hub and site do not agree on what they exchange.
        """
        start = time.perf_counter()
        if self._last is not None and staleness(self._last, frame.key) is None:
            self._begin_round()
        self._last = frame.key
        self._futures.append(self._hub.submit(self._site, frame))
        age = self._clock.next_age()
        try:
            # The hub ends every future, at the step's deadline if not before.
            reply = self._futures[-1 - age].result()
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
            staleness=age,
        )
        return reply

    def take_stats(self) -> ExchangeStats:
        """The counters since the last call."""
        return self._stats.take()

    def close(self) -> None:
        """The others wait for this site no longer."""
        self._hub.disconnect(self._site)

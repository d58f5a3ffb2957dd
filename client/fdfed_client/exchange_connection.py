"""Keeps a link to the exchange hub: opened in the foreground at first and when a round begins, else
in the background.

While the hub is gone, asking for the link costs nothing: the attempts to connect again run in a
thread of their own, at growing intervals.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Final

from fdfed.errors import ConnectionFailed
from fdfed.exchange import FrameRefused
from fdfed_client.exchange_link import ExchangeLink, HubUnavailable

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0


class ExchangeConnection:
    """At most one open link, and the attempts to get one."""

    def __init__(
        self, open_link: Callable[[], ExchangeLink], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            open_link: connects, within a bounded time, or raises `ConnectionFailed`.
            clock: seconds.
        """
        self._open_link = open_link
        self._clock = clock
        self._lock = threading.Lock()
        self._link: ExchangeLink | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._attempting = False
        self._refusal: ConnectionFailed | None = None
        # Counts the calls of `close`: an attempt that began before one must not outlive it.
        self._epoch = 0

    def link(self) -> ExchangeLink:
        """The open link; the first time, it is opened here and now.

        Raises:
            HubUnavailable: while there is none.
            ConnectionFailed: if the hub is there, and one side does not accept the other.
        """
        with self._lock:
            if self._link is not None:
                return self._link
            refusal, self._refusal = self._refusal, None
            if refusal is not None:
                raise refusal
            lost = self._failures > 0
            if lost and not self._attempting and self._clock() >= self._retry_at:
                self._attempting = True
                threading.Thread(target=self._retry, name="exchange-connect", daemon=True).start()
        if lost:
            raise HubUnavailable("the exchange hub is gone; attempts to connect go on")
        return self.open()

    def open(self) -> ExchangeLink:
        """The open link, or else one attempt to connect, here and now, whatever failed before.

        Raises:
            HubUnavailable: if the hub is not there.
            ConnectionFailed: if it is, and one side does not accept the other.
        """
        with self._lock:
            if self._link is not None:
                return self._link
            epoch = self._epoch
        try:
            link = self._open_link()
        except ConnectionFailed as err:
            if may_pass(err):
                self._failed(err)
            raise
        with self._lock:
            # Another attempt may have been quicker; the hub takes one stream of a site.
            if self._epoch == epoch and self._link is None:
                if self._failures:
                    log.info("connected to the exchange hub again")
                self._link, self._failures = link, 0
                return link
        link.close()
        raise HubUnavailable("the connection to the exchange hub was closed while it was made")

    def open_within(self, seconds: float) -> ExchangeLink:
        """An open link that was not lost unnoticed; else attempts to connect, here and now, until
        there is one or the time is over. There is one attempt in any case.

        Raises:
            HubUnavailable: if the hub is not there in time.
            ConnectionFailed: if it is, and one side does not accept the other.
        """
        with self._lock:
            link = self._link
            lost = link is not None and not link.is_open
            if lost:
                self._link = None
        if link is not None and lost:
            link.close()
        until = self._clock() + seconds
        while True:
            try:
                return self.open()
            except ConnectionFailed as err:
                if not may_pass(err) or self._clock() + FIRST_PAUSE_SECONDS > until:
                    raise
            time.sleep(FIRST_PAUSE_SECONDS)

    def drop(self, link: ExchangeLink, error: ConnectionFailed) -> None:
        """`link` is of no further use."""
        with self._lock:
            ours = self._link is link
            if ours:
                self._link = None
        link.close()
        if ours:
            self._failed(error)

    def close(self) -> None:
        """Ends the link and the attempts; the next call of `link` begins anew."""
        with self._lock:
            link, self._link = self._link, None
            self._epoch += 1
            self._failures, self._refusal = 0, None
        if link is not None:
            link.close()

    def _failed(self, error: ConnectionFailed) -> None:
        with self._lock:
            if self._failures == 0:
                log.warning("training goes on without cross-site terms: %s", error)
            pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures, 10), LONGEST_PAUSE_SECONDS)
            self._failures += 1
            # Spread out, so that a thousand sites do not come back to a hub in one moment.
            spread = random.SystemRandom().uniform(0.75, 1.25)
            self._retry_at = self._clock() + pause * spread

    def _retry(self) -> None:
        try:
            self.open()
        except ConnectionFailed as err:
            if not may_pass(err):
                with self._lock:
                    self._refusal = err
        finally:
            with self._lock:
                self._attempting = False


def may_pass(error: ConnectionFailed) -> bool:
    """Whether a later attempt, or a later step, may do better: the hub is down, it still holds our
    old stream, or it refuses no more than this one step."""
    if isinstance(error, FrameRefused):
        return error.code.drops_the_step
    return isinstance(error, HubUnavailable)

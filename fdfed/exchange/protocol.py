"""What the training step knows of the exchange: one call that swaps prototypes for cotangents."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from fdfed.exchange.frames import CotangentFrame, PrototypeFrame


@dataclass(frozen=True, slots=True)
class ExchangeStats:
    """One site's exchange over one round."""

    steps: int = 0
    """Frames that the training step handed in."""
    answered: int = 0
    """Of these, those that had cotangents to use (also when no peer was there)."""
    dropped: int = 0
    """Of these, those whose term was dropped; `answered + dropped == steps`."""
    staleness_mean: float = 0.0
    """Steps by which the reply used was older than its step, per answered step; 0 in lockstep."""
    staleness_max: int = 0
    peers_mean: float = 0.0
    """Peers per answered step; 0 when none was answered."""
    bytes_up: int = 0
    """Bytes of the messages sent; without a wire, of the numbers alone."""
    bytes_down: int = 0
    swap_ms_p50: float = 0.0
    """Median time of an answered swap, in milliseconds; 0 when none was answered. With stale
    replies that is what the step still waited."""
    swap_ms_p99: float = 0.0


@runtime_checkable
class Exchange(Protocol):
    """A remote loss function: prototypes in, cotangents out. One thread uses it at a time."""

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        """The cotangents for `frame`, or of an earlier step of its round if the exchange was told
        how old they may be; `None`: the cross-site term is dropped for this step.

        Raises:
            FrameRefused: when the two sides do not agree on what they exchange.
            ConnectionFailed: when one side does not accept the other's identity.
        """

    def take_stats(self) -> ExchangeStats:
        """The counters since the last call, which starts them anew: call it once per round."""

    def close(self) -> None:
        """Ends the site's part; a later `swap` may open it again."""


class StatsRecorder:
    """Gathers what `ExchangeStats` reports.

    Args:
        on_answer: told of each answered step the seconds that it waited.
    """

    def __init__(self, on_answer: Callable[[float], None] = lambda seconds: None) -> None:
        self._on_answer = on_answer
        self._clear()

    def _clear(self) -> None:
        self._dropped = self._peers = self._up = self._down = 0
        self._staleness = self._stalest = 0
        self._milliseconds = array("d")

    def answered(
        self, *, peers: int, seconds: float, bytes_up: int, bytes_down: int, staleness: int = 0
    ) -> None:
        """A step had cotangents, `staleness` steps old, after `seconds`."""
        self._peers += peers
        self._staleness += staleness
        self._stalest = max(self._stalest, staleness)
        self._milliseconds.append(seconds * 1e3)
        self._on_answer(seconds)
        self._up += bytes_up
        self._down += bytes_down

    def dropped(self, *, bytes_up: int = 0, bytes_down: int = 0) -> None:
        """A step's term was dropped."""
        self._dropped += 1
        self._up += bytes_up
        self._down += bytes_down

    def take(self) -> ExchangeStats:
        """The counters so far; starts anew."""
        count = len(self._milliseconds)
        p50, p99 = np.percentile(self._milliseconds, (50, 99)) if count else (0.0, 0.0)
        stats = ExchangeStats(
            steps=count + self._dropped,
            answered=count,
            dropped=self._dropped,
            peers_mean=self._peers / count if count else 0.0,
            staleness_mean=self._staleness / count if count else 0.0,
            staleness_max=self._stalest,
            bytes_up=self._up,
            bytes_down=self._down,
            swap_ms_p50=float(p50),
            swap_ms_p99=float(p99),
        )
        self._clear()
        return stats

"""How far the cotangents of a few steps ago are from today's, measured while a trial trains.

For a lag of τ steps and one tap, over all sites and steps of the rounds that exchange:

    error   |g(k - τ) - g(k)| / |g(k)|
    cosine  ⟨g(k - τ), g(k)⟩ / (|g(k - τ)| |g(k)|)

g is what the hub answered, in the site's own space: with blinding, after the map of its own step is
undone. For two sites the error is the drift of the prototypes over their stale gap, exactly
(`fdfed.exchange.late_replies`).
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fdfed.exchange import CotangentFrame, Exchange, ExchangeStats, PrototypeFrame, TapLayout
from fdfed.exchange import staleness as age_of

LAGS: Final = (1, 2, 3, 4, 5)
"""In steps."""


@dataclass(frozen=True, slots=True)
class LagError:
    """One tap at one lag."""

    error: float
    """Median of the relative error."""
    error_q90: float
    """Its 90th percentile."""
    cosine: float
    """Median of the cosine."""
    count: int


class CotangentLog:
    """Gathers the errors of all sites; `watch` goes around each site's exchange."""

    def __init__(self, layout: TapLayout) -> None:
        self._spans = list(layout.spans())
        self._lock = threading.Lock()
        self._errors: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)

    def watch(self, exchange: Exchange) -> Exchange:
        """The exchange, whose replies are compared with those before them."""
        return _Watched(exchange, self)

    def compare(self, lag: int, stale: NDArray[np.float64], fresh: NDArray[np.float64]) -> None:
        """Notes the errors of two replies, `lag` steps apart, tap by tap; a tap that either lacks
        is left out."""
        for name, *parts in self._spans:
            old, new = (np.concatenate([g[part] for part in parts]) for g in (stale, fresh))
            lengths = float(np.linalg.norm(old)), float(np.linalg.norm(new))
            if min(lengths) > 0:
                error = float(np.linalg.norm(old - new)) / lengths[1]
                cosine = float(old @ new) / (lengths[0] * lengths[1])
                with self._lock:
                    self._errors[name, lag].append((error, cosine))

    def summary(self) -> dict[str, dict[int, LagError]]:
        """By tap, then by lag."""
        found: dict[str, dict[int, LagError]] = defaultdict(dict)
        wanted = ((name, lag) for name, *_ in self._spans for lag in LAGS)
        for tap, lag in wanted:
            pairs = self._errors.get((tap, lag))
            if not pairs:
                continue
            errors, cosines = np.array(pairs).T
            found[tap][lag] = LagError(
                float(np.median(errors)),
                float(np.percentile(errors, 90)),
                float(np.median(cosines)),
                len(pairs),
            )
        return dict(found)


class _Watched:
    """An exchange that hands on what comes back, and remembers it for as long as a lag lasts."""

    def __init__(self, inner: Exchange, log: CotangentLog) -> None:
        self._inner = inner
        self._log = log
        self._replies: list[CotangentFrame] = []

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        reply = self._inner.swap(frame)
        if reply is not None:
            self._note(reply)
        return reply

    def _note(self, reply: CotangentFrame) -> None:
        ages = [age_of(before.key, reply.key) for before in self._replies]
        if 0 in ages:
            return  # a late reply that serves a second step
        for before, age in zip(self._replies, ages, strict=True):
            if age in LAGS:
                self._log.compare(age, *(r.vector.astype(np.float64) for r in (before, reply)))
        self._replies = [
            b
            for b, age in zip(self._replies, ages, strict=True)
            if age is not None and age < max(LAGS)
        ] + [reply]

    def take_stats(self) -> ExchangeStats:
        return self._inner.take_stats()

    def close(self) -> None:
        self._inner.close()


def read_errors(
    values: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> dict[str, dict[int, LagError]]:
    """A summary that went through JSON."""
    return {
        tap: {int(lag): LagError(**entry) for lag, entry in by_lag.items()}  # type: ignore[arg-type]
        for tap, by_lag in values.items()
    }

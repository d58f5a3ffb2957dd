"""Attack 6: the hub returns forged cotangents; what a site notices of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Literal

import numpy as np

from fdfed.exchange import (
    CotangentFrame,
    Exchange,
    ExchangeStats,
    FrameRefused,
    PrototypeFrame,
)

Verdict = Literal["refused", "dropped", "used"]
"""The stream is refused; the term is dropped for the step; the forgery enters the gradient."""

Forge = Callable[[CotangentFrame, np.random.Generator], CotangentFrame]


def _not_a_number(reply: CotangentFrame, _: np.random.Generator) -> CotangentFrame:
    return replace(reply, vector=np.full_like(reply.vector, np.nan))


def _too_long(reply: CotangentFrame, _: np.random.Generator) -> CotangentFrame:
    return replace(reply, vector=reply.vector * 1e6)


def _random(reply: CotangentFrame, rng: np.random.Generator) -> CotangentFrame:
    drawn = rng.normal(size=reply.vector.shape).astype(reply.vector.dtype)
    length = np.linalg.norm(reply.vector) / np.linalg.norm(drawn)
    return replace(reply, vector=(drawn * length).astype(reply.vector.dtype))


def _reversed(reply: CotangentFrame, _: np.random.Generator) -> CotangentFrame:
    return replace(reply, vector=-reply.vector)


def _hundredfold(reply: CotangentFrame, _: np.random.Generator) -> CotangentFrame:
    return replace(reply, vector=reply.vector * 100)


def _of_another_step(reply: CotangentFrame, _: np.random.Generator) -> CotangentFrame:
    return replace(reply, key=replace(reply.key, step=reply.key.step + 1))


FORGERIES: Final[Mapping[str, Forge]] = {
    "not a number": _not_a_number,
    "a million times too long": _too_long,
    "another step's answer": _of_another_step,
    "random, of the right length": _random,
    "reversed sign": _reversed,
    "a hundred times too long": _hundredfold,
}
"""From what every site must notice to what it has no means to."""


class LyingExchange:
    """An `Exchange` whose answers are forged on their way back; honest as to step and shape."""

    def __init__(self, inner: Exchange, forge: Forge, rng: np.random.Generator) -> None:
        self._inner, self._forge, self._rng = inner, forge, rng

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        """The forged answer, checked as every frame that comes from the wire is.

        Raises:
            FrameRefused: by that check.
        """
        reply = self._inner.swap(frame)
        if reply is None:
            return None
        forged = self._forge(reply, self._rng)
        forged.check_numbers()
        return forged

    def take_stats(self) -> ExchangeStats:
        """The inner exchange's counters."""
        return self._inner.take_stats()

    def close(self) -> None:
        """Closes the inner exchange."""
        self._inner.close()


def verdict(step: Callable[[], bool]) -> Verdict:
    """What became of a forged answer.

    Args:
        step: trains one step on it; says whether the cross-site term was used.
    """
    try:
        return "used" if step() else "dropped"
    except FrameRefused:
        return "refused"

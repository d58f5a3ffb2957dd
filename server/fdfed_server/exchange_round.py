"""One open round of the exchange: checks each frame, and turns a closed step into its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdfed.exchange import CotangentFrame, ExchangeCode, FrameRefused, PrototypeFrame, TapLayout
from fdfed_server.barrier import ClosedStep, RoundBarrier
from fdfed_server.pairs import PairMeans
from fdfed_server.terms import Terms

TermsOf = Callable[[TapLayout, NDArray[np.float64], NDArray[np.bool_]], Terms]
"""`(layout, vectors (S, size) in fp64, valid (S, taps)) -> Terms`, for S of 2 or more."""


@dataclass(slots=True)
class Entry:
    """A frame that waits for its answer."""

    frame: PrototypeFrame
    future: Future[CotangentFrame]


@dataclass(slots=True)
class ExchangeRound:
    """An open round: what its frames must be like, who takes part, and who waits for whom."""

    run_id: str
    server_round: int
    attempt: int
    index: dict[str, int]
    """Each site's place in every computation."""
    layout: TapLayout
    dtype: np.dtype[Any]
    barrier: RoundBarrier[Entry]
    pairs: PairMeans
    """How close the sites are to each other, over the steps so far."""

    def post(self, site: str, entry: Entry, *, now: float) -> None:
        """Takes a site's frame.

        Raises:
            FrameRefused: with the code of the first condition that does not hold.
        """
        self._check(entry.frame)
        if site not in self.index:
            raise FrameRefused(ExchangeCode.WRONG_ROUND, "the site has no part in this round")
        self.barrier.post(self.index[site], entry.frame.key.step, entry, now=now)

    def _check(self, frame: PrototypeFrame) -> None:
        key = frame.key
        if (key.run_id, key.server_round, key.attempt) != (
            self.run_id,
            self.server_round,
            self.attempt,
        ):
            raise FrameRefused(
                ExchangeCode.WRONG_ROUND,
                f"round {key.server_round}, attempt {key.attempt} while round {self.server_round}, "
                f"attempt {self.attempt} is open",
            )
        if frame.vector.dtype != self.dtype:
            raise FrameRefused(
                ExchangeCode.WRONG_TYPE, f"{frame.vector.dtype} in a round of {self.dtype}"
            )
        if frame.vector.shape != (self.layout.size,) or frame.valid.shape != (self.layout.taps,):
            raise FrameRefused(
                ExchangeCode.WRONG_SHAPE,
                f"{frame.vector.size} elements and {frame.valid.size} taps in a round of "
                f"{self.layout.size} and {self.layout.taps}",
            )
        frame.check_numbers()

    def replies(self, terms_of: TermsOf, step: ClosedStep[Entry]) -> list[CotangentFrame]:
        """One frame per entry of the step, in its order."""
        frames = [entry.frame for _, entry in step.entries]
        terms = self._terms(terms_of, frames)
        if not np.isfinite(terms.cotangents).all():
            raise FloatingPointError("the cross-site terms gave cotangents that are not finite")
        cotangents = terms.cotangents.astype(self.dtype, copy=False)
        return [
            CotangentFrame(frame.key, vector, terms.pair_terms, site_terms, len(frames) - 1)
            for frame, vector, site_terms in zip(frames, cotangents, terms.site_terms, strict=True)
        ]

    def note_pairs(self, step: ClosedStep[Entry]) -> None:
        """Adds the step to what is known of each pair; after its answers have left."""
        if len(step.entries) > 1:
            vectors = np.stack([entry.frame.vector for _, entry in step.entries])
            valid = np.stack([entry.frame.valid for _, entry in step.entries])
            self.pairs.add([index for index, _ in step.entries], vectors.astype(float), valid)

    def _terms(self, terms_of: TermsOf, frames: Sequence[PrototypeFrame]) -> Terms:
        if len(frames) < 2:
            nothing = np.full(self.layout.taps, np.nan)
            return Terms(nothing, nothing[None], np.zeros((1, self.layout.size)))
        vectors = np.empty((len(frames), self.layout.size))
        for row, frame in zip(vectors, frames, strict=True):
            row[:] = frame.vector
        return terms_of(self.layout, vectors, np.stack([frame.valid for frame in frames]))

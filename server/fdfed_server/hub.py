"""The exchange hub: gathers one frame per site and step, answers each with its cotangents.

Nothing here knows of a network: `exchange_service` hosts the hub behind gRPC, `InProcessExchange`
calls it from the simulation. What a step's numbers mean is handed in (`terms`), by the strategy
that owns the hub.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import DTypeLike

from fdfed.config import MAX_STALENESS
from fdfed.errors import InvalidInput
from fdfed.exchange import CotangentFrame, ExchangeCode, FrameRefused, PrototypeFrame, TapLayout
from fdfed_server.barrier import ClosedStep, RoundBarrier
from fdfed_server.deadlines import DeadlineWatcher
from fdfed_server.exchange_round import Entry, ExchangeRound, TermsOf
from fdfed_server.pairs import PairMeans

log = logging.getLogger(__name__)

_UNNOTED: Final = 8
"""Answered steps that may wait to have their pairs noted."""


@dataclass(frozen=True, slots=True)
class HubSnapshot:
    """The hub's counters since it was made, and who is there now."""

    frames_in: int
    frames_out: int
    bytes_in: int
    """Bytes of the numbers alone, in both directions."""
    bytes_out: int
    refused: Mapping[ExchangeCode, int]
    """Frames and streams refused, by code."""
    steps_complete: int
    """Steps answered with every site that was present."""
    steps_past_deadline: int
    """Steps answered without a site that was waited for."""
    latest_terms: Mapping[str, float]
    """L_exch of the last answered step by tap; NaN where fewer than two sites were valid."""
    present: tuple[str, ...]
    """Sites that the open round waits for; empty between rounds."""
    absent: tuple[str, ...]


class ExchangeHub:
    """Thread-safe; one round at a time. Make one per coordinator, and `close` it at the end."""

    def __init__(self, terms: TermsOf, *, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            terms: computes the cross-site terms of one step; called from any thread.
            clock: seconds; tests hand in their own and call `expire` themselves.
        """
        self._terms = terms
        self._clock = clock
        self._lock = threading.Lock()
        self._round: ExchangeRound | None = None
        self._refused: Counter[ExchangeCode] = Counter()
        self._reported: set[tuple[str, ExchangeCode]] = set()
        self._frames_in = self._frames_out = self._bytes_in = self._bytes_out = 0
        self._steps_complete = self._steps_past_deadline = 0
        self._latest_terms: dict[str, float] = {}
        self._pairs_lock = threading.Lock()
        self._unnoted: deque[tuple[ExchangeRound, ClosedStep[Entry]]] = deque()
        """Answered steps whose pairs are not noted yet: that waits for a moment between steps."""
        self._watcher = DeadlineWatcher(self.expire, clock)

    def open_round(
        self,
        run_id: str,
        server_round: int,
        attempt: int,
        *,
        sites: Sequence[str],
        layout: TapLayout,
        steps: int,
        deadline_seconds: float,
        max_missed_steps: int,
        max_staleness: int = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        """Frames of this round are taken from now on.

        Args:
            sites: in the order in which they enter every computation, whoever arrives first.
            steps: steps of the round; frames count theirs from 0.
            deadline_seconds: from a step's first frame to its answer, at most.
            max_missed_steps: a site that misses so many in a row is absent for the rest of it.
            max_staleness: how many steps a site may go on while one of its frames is unanswered.
            dtype: fp32, or fp64, of every frame. The hub computes in fp64 in any case.

        Raises:
            InvalidInput: if a round is open already, or an argument is out of its range.
        """
        kind = np.dtype(dtype)
        if kind not in (np.float32, np.float64):
            raise InvalidInput(f"dtype is {kind}; frames are float32 or float64")
        if not sites or len(set(sites)) != len(sites):
            raise InvalidInput(f"sites is {tuple(sites)}; name at least one site, each once")
        if not 0 <= max_staleness <= MAX_STALENESS:
            raise InvalidInput(f"max_staleness is {max_staleness}, not in 0 to {MAX_STALENESS}")
        if steps < 1 or max_missed_steps < 1 or not deadline_seconds > 0:
            raise InvalidInput(
                f"steps is {steps}, max_missed_steps {max_missed_steps}, deadline_seconds "
                f"{deadline_seconds}; all three must be above 0"
            )
        barrier = RoundBarrier[Entry](
            sites=len(sites),
            steps=steps,
            deadline_seconds=deadline_seconds,
            max_missed_steps=max_missed_steps,
            max_staleness=max_staleness,
        )
        index = {site: number for number, site in enumerate(sites)}
        with self._lock:
            if self._round is not None:
                raise InvalidInput(
                    f"round {self._round.server_round} is still open; close_round() comes first"
                )
            self._reported.clear()
            pairs = PairMeans.empty(layout, sites)
            self._round = ExchangeRound(
                run_id, server_round, attempt, index, layout, kind, barrier, pairs
            )

    def close_round(self) -> Mapping[str, Mapping[str, float]]:
        """How close the sites were to each other, by pair and tap (`PairMeans.means`).

        No frame is taken any more; steps still open are refused. Does nothing between rounds.
        """
        with self._lock:
            current, self._round = self._round, None
            closed = current.barrier.close() if current is not None else []
        for step in closed:
            self._refuse(step, FrameRefused(ExchangeCode.ROUND_CLOSED))
        if current is None:
            return {}
        self._note_pairs(leave=0)
        with self._pairs_lock:
            return current.pairs.means()

    def close(self) -> None:
        """Closes the round, and ends the thread that watches the deadlines."""
        self.close_round()
        self._watcher.stop()

    def submit(self, site: str, frame: PrototypeFrame) -> Future[CotangentFrame]:
        """The site's cotangents once the step is complete, or past its deadline.

        The future ends in `FrameRefused` where there are none. The call never waits for another
        site; whichever call completes a step also computes it.
        """
        future: Future[CotangentFrame] = Future()
        # From here on `cancel` does nothing: the hub alone ends the future.
        future.set_running_or_notify_cancel()
        refusal: FrameRefused | None = None
        with self._lock:
            self._frames_in += 1
            self._bytes_in += frame.nbytes
            current = self._round
            try:
                if current is None:
                    raise FrameRefused(ExchangeCode.WRONG_ROUND, "no round is open")
                current.post(site, Entry(frame, future), now=self._clock())
            except FrameRefused as err:
                self._note_refusal(site, err)
                refusal = err
            closed, deadline = self._collect()
        if refusal is not None:
            future.set_exception(refusal)
        if deadline is not None:
            self._watcher.watch(deadline)
        self._answer(current, closed)
        # A site that has answers to send hears nothing sooner for it; one that waits, does.
        self._note_pairs(leave=_UNNOTED if closed else 0)
        return future

    def disconnect(self, site: str) -> None:
        """The site's stream is closed: its unanswered frames are withdrawn, and nobody waits for it
        until it posts again."""
        with self._lock:
            current = self._round
            if current is None or site not in current.index:
                return
            current.barrier.withdraw(current.index[site])
            closed, _ = self._collect()
        self._answer(current, closed)

    def expire(self) -> float | None:
        """Answers the steps whose deadline has passed; the next deadline, if a step is open."""
        with self._lock:
            current = self._round
            if current is None:
                return None
            closed = current.barrier.expire(self._clock())
            self._steps_past_deadline += len(closed)
            more, deadline = self._collect()
        for step in closed:
            log.warning(
                "round %d: step %d answered at its deadline; %d site(s) there, %d missed it",
                current.server_round,
                step.step,
                len(step.entries),
                len(step.missed_by),
            )
        self._answer(current, closed + more)
        return deadline

    def count_refusal(self, site: str, refusal: FrameRefused) -> None:
        """Counts a refusal that was decided before a frame came to the hub."""
        with self._lock:
            self._note_refusal(site, refusal)

    def snapshot(self) -> HubSnapshot:
        """The counters as they stand."""
        with self._lock:
            sites = tuple(self._round.index) if self._round is not None else ()
            here = set(self._round.barrier.present) if self._round is not None else set()
            return HubSnapshot(
                frames_in=self._frames_in,
                frames_out=self._frames_out,
                bytes_in=self._bytes_in,
                bytes_out=self._bytes_out,
                refused=dict(self._refused),
                steps_complete=self._steps_complete,
                steps_past_deadline=self._steps_past_deadline,
                latest_terms=dict(self._latest_terms),
                present=tuple(site for number, site in enumerate(sites) if number in here),
                absent=tuple(site for number, site in enumerate(sites) if number not in here),
            )

    def _collect(self) -> tuple[list[ClosedStep[Entry]], float | None]:
        if self._round is None:
            return [], None
        closed = self._round.barrier.collect()
        self._steps_complete += len(closed)
        return closed, self._round.barrier.next_deadline

    def _answer(self, current: ExchangeRound | None, closed: Sequence[ClosedStep[Entry]]) -> None:
        if current is None:
            return
        # Outside the lock: other steps' frames are taken meanwhile.
        for step in closed:
            try:
                replies = current.replies(self._terms, step)
            except Exception:
                # Whatever went wrong, each site must hear that its term is dropped: without an
                # answer it would wait, and a hub that raised here would lose its watcher.
                log.exception("round %d: step %d failed", current.server_round, step.step)
                self._refuse(step, FrameRefused(ExchangeCode.INTERNAL))
                continue
            with self._lock:
                self._frames_out += len(replies)
                self._bytes_out += sum(reply.nbytes for reply in replies)
                self._latest_terms = dict(
                    zip(current.layout.names, replies[0].pair_terms.tolist(), strict=True)
                )
            for (_, entry), reply in zip(step.entries, replies, strict=True):
                entry.future.set_result(reply)
            self._unnoted.append((current, step))

    def _note_pairs(self, *, leave: int) -> None:
        with self._pairs_lock:
            while len(self._unnoted) > leave:
                of_round, step = self._unnoted.popleft()
                of_round.note_pairs(step)

    def _refuse(self, step: ClosedStep[Entry], refusal: FrameRefused) -> None:
        with self._lock:
            self._refused[refusal.code] += len(step.entries)
        for _, entry in step.entries:
            entry.future.set_exception(refusal)

    def _note_refusal(self, site: str, refusal: FrameRefused) -> None:
        self._refused[refusal.code] += 1
        # A site that repeats itself does not flood the log; a new round names it once more.
        repeated = (site, refusal.code) in self._reported
        self._reported.add((site, refusal.code))
        log.log(logging.DEBUG if repeated else logging.WARNING, "site %s: %s", site, refusal)

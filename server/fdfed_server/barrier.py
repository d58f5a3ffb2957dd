"""Who waits for whom within one round of the exchange: a state machine without clock or thread.

A step is open from its first frame until no site is waited for any more. A site is waited for
while it is present and has not come as far as the step: a site that posts a later step has passed
the earlier ones, so that sites which drifted apart (one of them trained through a lost connection)
meet again without waiting for a deadline at each step between.

With `max_staleness` d above 0 a site goes on while up to d + 1 of its frames are unanswered. Frames
are compared within one step all the same. A step may then open d steps before its last site comes
to it, so that its deadline counts anew whenever such a site has posted one of the d steps before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fdfed.exchange import ExchangeCode, FrameRefused

Entry = TypeVar("Entry")


@dataclass(slots=True)
class ClosedStep(Generic[Entry]):
    """A step that is to be answered now."""

    step: int
    entries: list[tuple[int, Entry]]
    """What was posted, with each site's index, in the round's order of sites (never by arrival)."""
    missed_by: tuple[int, ...]
    """Sites that were waited for until the deadline."""


@dataclass(slots=True)
class _OpenStep(Generic[Entry]):
    deadline: float
    waiting_for: set[int]
    entries: dict[int, Entry] = field(default_factory=dict)


@dataclass(slots=True)
class _Site:
    last: int = -1
    """The last step it posted."""
    pending: dict[int, int] = field(default_factory=dict)
    """The open steps that hold its frames, at most `max_staleness` + 1, which bounds the memory;
    each with what `last` was before it, to restore when the frames are withdrawn."""
    missed: int = 0
    """Steps missed in a row."""
    connected: bool = True
    expelled: bool = False

    @property
    def present(self) -> bool:
        return self.connected and not self.expelled


class RoundBarrier(Generic[Entry]):
    """The barrier of one round over `sites` sites and `steps` steps; sites go by their index.

    At first every site is present, whether or not it is connected yet: the others wait for it up
    to the deadline. After any change, `collect` gives the steps that it completed.
    """

    def __init__(
        self,
        *,
        sites: int,
        steps: int,
        deadline_seconds: float,
        max_missed_steps: int,
        max_staleness: int = 0,
    ) -> None:
        self._steps = steps
        self._deadline_seconds = deadline_seconds
        self._max_missed_steps = max_missed_steps
        self._max_staleness = max_staleness
        self._sites = [_Site() for _ in range(sites)]
        self._open: dict[int, _OpenStep[Entry]] = {}
        self._closed = bytearray(steps)

    @property
    def next_deadline(self) -> float | None:
        """When `expire` has something to do; `None` while no step is open."""
        return min((step.deadline for step in self._open.values()), default=None)

    @property
    def present(self) -> tuple[int, ...]:
        """Sites that are waited for in this round."""
        return tuple(index for index, site in enumerate(self._sites) if site.present)

    @property
    def expelled(self) -> tuple[int, ...]:
        """Sites that missed too many steps in a row."""
        return tuple(index for index, site in enumerate(self._sites) if site.expelled)

    def post(self, index: int, step: int, entry: Entry, *, now: float) -> None:
        """Takes a site's frame for a step.

        Raises:
            FrameRefused: if the site may not post it. One that is TOO_LATE still tells how far the
                site has come, so `collect` may have something afterwards.
        """
        site = self._sites[index]
        self._check(site, step)
        before, site.last = site.last, step
        self._note_progress(index, step, now)
        if self._closed[step]:
            raise FrameRefused(ExchangeCode.TOO_LATE)
        opened = self._open.get(step)
        if opened is None:
            waiting_for = {i for i, s in enumerate(self._sites) if s.present and s.last < step}
            opened = _OpenStep(now + self._deadline_seconds, waiting_for)
            self._open[step] = opened
        opened.entries[index] = entry
        site.pending[step] = before

    def _note_progress(self, index: int, step: int, now: float) -> None:
        """A site has come to `step`: open steps up to it wait for it no longer, later ones do."""
        back, self._sites[index].connected = not self._sites[index].connected, True
        for number, opened in self._open.items():
            if number <= step:
                opened.waiting_for.discard(index)
                continue
            if back:
                opened.waiting_for.add(index)
            if number <= step + self._max_staleness:
                opened.deadline = max(opened.deadline, now + self._deadline_seconds)

    def _check(self, site: _Site, step: int) -> None:
        if site.expelled:
            raise FrameRefused(ExchangeCode.ABSENT)
        if not 0 <= step < self._steps:
            raise FrameRefused(
                ExchangeCode.WRONG_STEP, f"step {step} of a round of {self._steps} steps"
            )
        if step == site.last:
            raise FrameRefused(ExchangeCode.DUPLICATE_FRAME)
        if step < site.last:
            raise FrameRefused(ExchangeCode.WRONG_STEP, f"step {step} after step {site.last}")
        if len(site.pending) > self._max_staleness:
            raise FrameRefused(
                ExchangeCode.WRONG_STEP, f"step {step} while {list(site.pending)} are unanswered"
            )

    def withdraw(self, index: int) -> None:
        """The site's connection is gone, and with it its unanswered frames.

        They are taken out because their cotangents would reach nobody: the others are then given
        the gradient of what is really trained. The site may post these steps again. Nobody waits
        for it before it posts: one that is back may have nothing to say in this round any more.
        """
        site = self._sites[index]
        site.connected = False
        site.last = min(site.pending.values(), default=site.last)
        for step in site.pending:
            opened = self._open[step]
            del opened.entries[index]
            if not opened.entries:
                del self._open[step]
        site.pending.clear()
        for opened in self._open.values():
            opened.waiting_for.discard(index)

    def expire(self, now: float) -> list[ClosedStep[Entry]]:
        """Closes the steps whose deadline has passed with the frames that are there."""
        closed = []
        for number in sorted(n for n, opened in self._open.items() if opened.deadline <= now):
            missed_by = tuple(sorted(self._open[number].waiting_for))
            closed.append(self._close(number, missed_by))
            for index in missed_by:
                self._miss(index)
        return closed

    def close(self) -> list[ClosedStep[Entry]]:
        """Closes every open step; none of them is complete."""
        return [self._close(number, ()) for number in sorted(self._open)]

    def _miss(self, index: int) -> None:
        site = self._sites[index]
        site.missed += 1
        if site.missed >= self._max_missed_steps and not site.pending:
            site.expelled = True
            for opened in self._open.values():
                opened.waiting_for.discard(index)

    def collect(self) -> list[ClosedStep[Entry]]:
        """Closes the steps that wait for nobody any more, earliest first."""
        done = sorted(number for number, opened in self._open.items() if not opened.waiting_for)
        return [self._close(number, ()) for number in done]

    def _close(self, number: int, missed_by: Sequence[int]) -> ClosedStep[Entry]:
        opened = self._open.pop(number)
        self._closed[number] = True
        for index in opened.entries:
            del self._sites[index].pending[number]
            self._sites[index].missed = 0
        return ClosedStep(number, sorted(opened.entries.items()), tuple(missed_by))

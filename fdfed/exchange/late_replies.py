"""Bounded staleness: which reply a site may use at a step, and how old it is.

A site posts its frame of step k and goes on. At step k it uses the newest reply that is at most d
steps old, d = `exchange.max_staleness`: the cotangents g(z') of an earlier step k' in k-d … k,
applied to the prototypes of step k. For two sites and one tap, with z = (F_s - B_t, F_t - B_s),

    |g(z') - g(z)| = 2 |z' - z| / (|z| |z'|),        |g(z') - g(z)| / |g(z)| = |z' - z| / |z'|

(g = -2 z / |z|² is an inversion; ε = 0), so that the error is the drift over the stale gap.
"""

from __future__ import annotations

from fdfed.errors import InvalidInput
from fdfed.exchange.frames import CotangentFrame, StepKey


def staleness(reply: StepKey, step: StepKey) -> int | None:
    """Steps by which a reply to the frame `reply` is older than `step`; None if it belongs to
    another run, round or attempt, or to a later step."""
    same = (reply.run_id, reply.server_round, reply.attempt) == (
        step.run_id,
        step.server_round,
        step.attempt,
    )
    age = step.step - reply.step
    return age if same and age >= 0 else None


def is_usable(reply: StepKey, step: StepKey, max_staleness: int) -> bool:
    """Whether a reply to the frame `reply` may serve at `step`."""
    age = staleness(reply, step)
    return age is not None and age <= max_staleness


class NewestReply:
    """The newest reply that came in, handed out while it may serve."""

    def __init__(self, max_staleness: int) -> None:
        self._max_staleness = max_staleness
        self._reply: CotangentFrame | None = None

    def offer(self, reply: CotangentFrame) -> None:
        """Keeps `reply`, unless one of a later step of its round is here."""
        kept = self._reply
        if kept is None or staleness(reply.key, kept.key) is None:
            self._reply = reply

    def at(self, step: StepKey) -> CotangentFrame | None:
        """The reply, if it may serve at `step`; else it is forgotten."""
        if self._reply is not None and not is_usable(self._reply.key, step, self._max_staleness):
            self._reply = None
        return self._reply


class ModelledDelay:
    """A site's clock, in steps of training, when every reply takes `delay_steps` of them.

    Nothing is measured: which reply serves at a step, and how long the site waits for it, follow
    from the two numbers. All sites are taken to train equally fast.
    """

    def __init__(self, *, delay_steps: float, max_staleness: int) -> None:
        if not delay_steps >= 0 or max_staleness < 0:
            raise InvalidInput(
                f"delay_steps is {delay_steps} and max_staleness {max_staleness}; neither may be "
                "below 0"
            )
        self._delay = delay_steps
        self._max_staleness = max_staleness
        self._now = 0.0
        self._arrivals: list[float] = []
        self.waited = 0.0
        """Steps of training that could have been made while the site waited."""

    def next_age(self) -> int:
        """Posts the frame of the next step, and trains it; the age of the reply that served it."""
        self._arrivals.append(self._now + self._delay)
        step = len(self._arrivals) - 1
        oldest = max(0, step - self._max_staleness)
        # Replies come in order: the first that may serve is the first for which to wait.
        begin = max(self._now, self._arrivals[oldest])
        self.waited += begin - self._now
        newest = max(k for k in range(oldest, step + 1) if self._arrivals[k] <= begin)
        self._now = begin + 1.0
        return step - newest

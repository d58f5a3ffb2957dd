"""Takes the replies of a round, one after the other, into whatever makes their average."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from numpy.typing import NDArray

from fdfed.errors import QuorumNotMet, WireError
from fdfed_server.private_terms import stop_if_spent
from fdfed_server.site_reply import Attempt, SiteReply
from fdfed_server.trained_round import Accepted, nbytes_of
from fdfed_server.update_bound import Bounded, UpdateBound

Arrays = Mapping[str, NDArray[Any]]


class Average(Protocol):
    """What updates are folded into, as `WeightedAverage` is one."""

    def check(self, weights: Arrays) -> float:
        """Refuses what must not enter; returns how far the site moved, squared."""
        ...

    def fold(
        self, weights: Arrays, *, num_examples: int, square_move: float | None = None
    ) -> float:
        """Takes one site's weights; returns how far it moved."""
        ...


def fold_replies(
    asked: Attempt,
    replies: Iterable[SiteReply],
    into: Average,
    bound: UpdateBound | None,
    *,
    opened: Callable[[Arrays], Arrays] = lambda weights: weights,
) -> Accepted:
    """Folds the replies in, in the order given; what does not fit is refused, and why is noted.

    Args:
        bound: what each update is held to; None lets everything in that is of the model's form.
        opened: the weights of an update, from what travelled; raises `WireError`.

    Raises:
        PrivacyBudgetExceeded: if a site's privacy budget is spent.
    """
    accepted = Accepted()
    for reply in replies:
        stop_if_spent(reply.site, reply.failure, asked.server_round)
        try:
            result = asked.plain(reply)
            weights = opened(result.weights)
            square_move = into.check(weights)
            update = Bounded(weights, square_move)
            if bound is not None:
                update = bound.apply(weights, square_move)
        except WireError as err:
            accepted.refused[reply.site] = str(err)
            continue
        into.fold(update.weights, num_examples=result.num_examples, square_move=update.square_move)
        accepted.moves[reply.site] = math.sqrt(square_move)
        # Weights are in the average; keeping them would make memory grow with the sites.
        accepted.bounded[reply.site] = replace(update, weights={})
        accepted.bytes_up += nbytes_of(result.weights)
        accepted.results[reply.site] = replace(result, weights={})
        # Else this reply is in memory still while the next one arrives.
        del reply, result, update, weights
    return accepted


def check_quorum(asked: Attempt, accepted: Accepted, quorum: int) -> None:
    """
    Raises:
        QuorumNotMet: if fewer sites than `quorum` entered, or too few for a robust average; says
            why each other one did not.
    """
    entered = len(accepted.results)
    short = asked.plan.defence.too_few(entered) if asked.plan.aggregation == "robust" else None
    if entered >= quorum and short is None:
        return
    reasons = "; ".join(f"{site}: {why}" for site, why in accepted.refused.items())
    raise QuorumNotMet(
        f"round {asked.server_round}, attempt {asked.number}: the weights of "
        f"{entered} site(s) entered, {short or f'{quorum} are needed'} "
        f"({reasons or 'no reply from the others'})"
    )

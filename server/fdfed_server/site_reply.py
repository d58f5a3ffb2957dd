"""What comes back from a site, and whether it is an answer to what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import RecordDict

from fdfed.config import RunPlan
from fdfed.errors import WireError
from fdfed.exchange import ExchangeStats, TapLayout
from fdfed.wire import MaskedResult, TrainResult
from fdfed_server.private_terms import check_release


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteReply:
    """What came back from one site: a record, or the reason why there is none."""

    site: str
    record: RecordDict | None
    failure: str = ""
    lost: bool = False
    """The site itself said nothing: it is gone, or silent."""

    def opened(self) -> RecordDict:
        """The record.

        Raises:
            WireError: if there is none.
        """
        if self.record is None:
            raise WireError(self.failure or "no reply")
        return self.record


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at a round: what its answers must be like.

    Args:
        examples: training images of each site that was asked, as it announced them.
    """

    plan: RunPlan
    layout: TapLayout
    run_id: str
    server_round: int
    number: int
    examples: Mapping[str, int]

    def plain(self, reply: SiteReply) -> TrainResult:
        """The update in the clear that a site sent.

        Raises:
            WireError: if there is none, or it does not answer this attempt.
        """
        result = TrainResult.from_record(reply.opened())
        self._check(result)
        if result.num_examples != self.examples[reply.site]:
            raise WireError(
                f"num_examples is {result.num_examples}, but the site announced "
                f"{self.examples[reply.site]} training images when it joined"
            )
        for name in ("alpha", "fd", "exch", "valid"):
            if len(getattr(result, name)) != self.layout.taps:
                raise WireError(
                    f"{name} does not have one entry for each of the {self.layout.taps} taps"
                )
        check_release(self.plan, self.layout, self.server_round, result.released)
        return result

    def masked(self, reply: SiteReply) -> MaskedResult:
        """The update under masks that a site sent.

        Raises:
            WireError: if there is none, or it does not answer this attempt.
        """
        result = MaskedResult.from_record(reply.opened())
        self._check(result)
        return result

    def _check(self, result: TrainResult | MaskedResult) -> None:
        """Whether a result is one of this attempt, and had what the plan requires."""
        asked = (self.run_id, self.server_round, self.number)
        if (result.run_id, result.server_round, result.attempt) != asked:
            raise WireError("the reply answers another round or attempt")
        self._check_stats(result.exchange)
        if self.plan.exchange.required and self._has_gaps(result.exchange):
            raise WireError(
                "a step of its round lacked the cross-site term of a peer, and the plan has "
                "exchange.required = true"
            )

    def _check_stats(self, stats: ExchangeStats) -> None:
        """What a site says of its exchange must hold together, since the run's results repeat it.

        Raises:
            WireError: if it does not.
        """
        bound = self.plan.exchange.max_staleness
        if stats.answered + stats.dropped != stats.steps:
            raise WireError(
                f"{stats.answered} steps answered and {stats.dropped} dropped of {stats.steps}"
            )
        if not 0 <= stats.staleness_mean <= stats.staleness_max <= bound:
            raise WireError(
                f"replies {stats.staleness_mean:g} steps late in the mean and "
                f"{stats.staleness_max} at most, where the plan allows {bound}"
            )

    def _has_gaps(self, stats: ExchangeStats) -> bool:
        """Whether a step of the round was not answered with the term of all its peers."""
        if not self.plan.swaps_batches or self.plan.phase(self.server_round) == 1:
            return False
        peers = len(self.examples) - 1
        return stats.answered != self.plan.steps_per_round or stats.peers_mean != peers

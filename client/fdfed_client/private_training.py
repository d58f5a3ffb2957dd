"""A site's training under differential privacy: the ledger before the release, always."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fdfed.config import PrivacyPlan, RunPlan, WeightsPrivacy, releases_prototypes
from fdfed.data import SiteData
from fdfed.data.units import training_units
from fdfed.errors import InvalidInput, PrivacyBudgetExceeded, RefusedByPolicy, WireError
from fdfed.evaluation.results import SitePrivacy
from fdfed.networks import SegmentationNetwork
from fdfed.privacy.accounting import Release, checked_delta, derived_delta, epsilon_of
from fdfed.privacy.ledger import Budget, Entry, Kind, Ledger
from fdfed.privacy.projection import projections
from fdfed.privacy.randomness import SystemRandomness
from fdfed.training.per_image import FixedTerm
from fdfed.training.per_unit_gradients import check_hookable
from fdfed.training.private_round import (
    PrivateRound,
    release_prototypes,
    sample_rate,
    train_private_round_,
)
from fdfed.training.step import layout_of
from fdfed.wire import TrainInstruction, TrainResult
from fdfed_client.local_model import PrivacyAtSite

log = logging.getLogger(__name__)

_COTANGENT_SLACK: Final = 1.01
"""Room for rounding in the bound on a cotangent's norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateAnswer:
    """What a round leaves at the site, and what it tells the coordinator."""

    result: TrainResult
    """Less the weights."""
    optimizer_state: dict[str, Tensor]


class PrivateTraining:
    """One plan's private training at one site.

    Args:
        plan: has a `privacy` table.
        images: a `SiteData`.
        own: ledger, and the site's own bound: the smaller of it and the plan's is the budget.
        min_units: fewest training units that this site takes part with.

    Raises:
        InvalidInput: if the plan's network or δ cannot serve here.
        RefusedByPolicy: if the site has too few units.
        PrivacyBudgetExceeded: if the ledger is damaged.
    """

    def __init__(
        self,
        site: str,
        plan: RunPlan,
        network: SegmentationNetwork,
        images: object,
        *,
        own: PrivacyAtSite,
        min_units: int = 2,
    ) -> None:
        privacy = _privacy_of(plan)
        if not isinstance(images, SiteData):
            raise InvalidInput(
                f"{site}'s images do not say whose they are; open them with fdfed.data.open_site"
            )
        self._site, self._plan, self._privacy = site, plan, privacy
        self._ledger = Ledger(own.ledger)
        self._randomness = own.randomness or SystemRandomness()
        self._units = training_units(images, privacy.unit)
        if len(self._units) < min_units:
            raise RefusedByPolicy(
                f"{site} has {len(self._units)} training {self._units.unit}(s); a private run "
                f"needs at least {min_units} here"
            )
        if isinstance(privacy.weights, WeightsPrivacy):
            check_hookable(network)
        count = len(self._units)
        delta = (
            derived_delta(count)
            if privacy.delta == "derived"
            else checked_delta(privacy.delta, count)
        )
        bounds = (privacy.epsilon, own.max_epsilon)
        self._budget = Budget(min(bound for bound in bounds if bound is not None), delta)
        layout = layout_of(network)
        dimensions = privacy.prototypes.dimensions if privacy.prototypes else 1
        self._layout = layout.narrowed(dimensions)
        self._projection = projections(layout, dimensions=dimensions, seed=plan.seed)
        self._announce()

    def spent(self) -> SitePrivacy:
        """What the ledger holds now."""
        return SitePrivacy(
            epsilon=self._ledger.spent(delta=self._budget.delta),
            delta=self._budget.delta,
            unit=self._units.unit,
            units=len(self._units),
        )

    def train_(
        self,
        network: SegmentationNetwork,
        message: TrainInstruction,
        *,
        after_round: int | None,
        optimizer_state: dict[str, Tensor] | None,
        on_step: Callable[[int], None] | None,
    ) -> PrivateAnswer:
        """Trains `network` in place, from the weights that came with the message.

        Args:
            after_round: the round that the site has a record of; the ledger must know it.

        Raises:
            PrivacyBudgetExceeded: before anything is computed, if the round does not fit.
        """
        self._check_complete(message.run_id, after_round)
        term = self._term(message)
        epsilon = self._ledger.reserve(self._entries(message), self._budget)
        log.info(
            "%s: round %d brings ε to %.4g of %.4g (δ = %.3g)",
            self._site,
            message.server_round,
            epsilon,
            self._budget.epsilon,
            self._budget.delta,
        )
        released = self._release(network, message.server_round)
        request = PrivateRound(
            plan=self._plan,
            server_round=message.server_round,
            alpha=message.alpha if message.phase == 2 and self._plan.has_discrepancy else None,
            term=term,
        )
        outcome = train_private_round_(
            network,
            self._units,
            request,
            randomness=self._randomness,
            optimizer_state=optimizer_state,
            on_step=on_step,
        )
        result = _result_of(message, self._units.images, released)
        return PrivateAnswer(result=result, optimizer_state=outcome.optimizer_state)

    def _check_complete(self, run_id: str, after_round: int | None) -> None:
        """Notices a ledger that was removed, or put back from before that round."""
        if after_round is None or not self._releases(after_round):
            return
        known = {(e.run_id, e.server_round) for e in self._ledger.entries()}
        if (run_id, after_round) not in known:
            raise PrivacyBudgetExceeded(
                f"{self._site} has trained round {after_round} of this run, but its privacy ledger "
                "does not know it; put the newest ledger back, or treat the budget as spent"
            )

    def _release(
        self, network: SegmentationNetwork, server_round: int
    ) -> NDArray[np.float64] | None:
        prototypes = self._privacy.prototypes
        if prototypes is None or not releases_prototypes(self._plan, server_round):
            return None
        # Under the weights that came, which all sites and the coordinator have: prototypes of
        # weights trained here would depend on every unit in a way that clipping does not bound.
        return release_prototypes(
            network,
            self._units,
            self._plan,
            prototypes,
            projection=self._projection,
            randomness=self._randomness,
        )

    def _term(self, message: TrainInstruction) -> FixedTerm | None:
        prototypes, cotangents = self._privacy.prototypes, message.cotangents
        if prototypes is None or cotangents is None or message.phase == 1:
            return None
        if len(cotangents) != self._layout.size:
            raise WireError(
                f"the instruction has {len(cotangents)} cotangents; the plan's projected "
                f"prototypes have {self._layout.size} entries"
            )
        if self._plan.method.form == "paper":
            self._check_bound(cotangents)
        return FixedTerm(
            projection=self._projection,
            layout=self._layout,
            cotangents=cotangents,
            scale=message.total_examples / self._units.images,
            max_norm=prototypes.max_norm,
        )

    def _check_bound(self, cotangents: NDArray[np.float64]) -> None:
        """Eq. 4 bounds a tap's cotangent by 1/√eps (`fdfed.training.step`)."""
        for name, fore, back in self._layout.spans():
            squared = float((cotangents[fore] ** 2).sum() + (cotangents[back] ** 2).sum())
            if squared > _COTANGENT_SLACK / self._plan.method.eps:
                raise WireError(f"the cotangent of {name} is longer than its equation allows")

    def _entries(self, message: TrainInstruction) -> list[Entry]:
        return [
            Entry(
                run_id=message.run_id,
                server_round=message.server_round,
                attempt=message.attempt,
                kind=kind,
                release=release,
            )
            for kind, release in self._releases(message.server_round).items()
        ]

    def _releases(self, server_round: int) -> dict[Kind, Release]:
        """What one round releases."""
        made: dict[Kind, Release] = {}
        if isinstance(self._privacy.weights, WeightsPrivacy):
            made["weights"] = Release(
                noise_multiplier=self._privacy.weights.noise_multiplier,
                sample_rate=sample_rate(self._plan, len(self._units)),
                steps=self._plan.steps_per_round,
            )
        prototypes = self._privacy.prototypes
        if prototypes is not None and releases_prototypes(self._plan, server_round):
            made["prototypes"] = Release(
                noise_multiplier=prototypes.noise_multiplier, sample_rate=1.0
            )
        return made

    def _announce(self) -> None:
        """Says, before anything is trained, how far the budget goes."""
        before, rounds = [e.release for e in self._ledger.entries()], self._plan.rounds
        delta, limit = self._budget.delta, self._budget.epsilon

        def after(rounds: int) -> float:
            coming = (self._releases(number).values() for number in range(1, rounds + 1))
            return epsilon_of([*before, *chain.from_iterable(coming)], delta=delta)

        fitting = bisect_right(range(1, rounds + 1), limit, key=after)
        log.log(
            logging.INFO if fitting == rounds else logging.WARNING,
            "%s: %s. %d training %ss, δ = %.3g, ε spent before %.4g, budget %.4g: enough for %d of "
            "%d rounds, which together would bring ε to %.4g",
            self._site,
            self._privacy.summary(),
            len(self._units),
            self._units.unit,
            delta,
            after(0),
            limit,
            fitting,
            rounds,
            after(rounds),
        )


def _privacy_of(plan: RunPlan) -> PrivacyPlan:
    if plan.privacy is None:
        raise InvalidInput("private training needs a plan with [run.privacy]")
    return plan.privacy


def _result_of(
    message: TrainInstruction, num_examples: int, released: NDArray[np.float64] | None
) -> TrainResult:
    """What a round tells beside its weights: nothing of the images that no noise covers."""
    withheld = np.full(len(message.alpha), np.nan)
    return TrainResult(
        run_id=message.run_id,
        server_round=message.server_round,
        attempt=message.attempt,
        num_examples=num_examples,
        loss_seg=np.nan,
        # Time goes with the units that were drawn.
        seconds=np.nan,
        alpha=message.alpha,
        fd=withheld,
        exch=withheld,
        valid=withheld,
        released=released,
        weights={},
    )

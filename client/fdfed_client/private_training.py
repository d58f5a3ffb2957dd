"""A site's training under differential privacy: the ledger before the release, always."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.data import SiteData
from fdfed.data.units import training_units
from fdfed.errors import InvalidInput, PrivacyBudgetExceeded, RefusedByPolicy, WireError
from fdfed.evaluation.results import SitePrivacy
from fdfed.networks import SegmentationNetwork
from fdfed.privacy.accounting import Release, checked_delta, derived_delta, epsilon_of
from fdfed.privacy.ledger import Budget, Entry, Ledger
from fdfed.privacy.projection import projections
from fdfed.privacy.randomness import Randomness
from fdfed.privacy_plan import PrivacyPlan, WeightsPrivacy, releases_prototypes
from fdfed.training.per_image import FixedTerm
from fdfed.training.per_unit_gradients import check_hookable
from fdfed.training.private_round import (
    PrivateOutcome,
    PrivateRound,
    release_prototypes,
    sample_rate,
    train_private_round_,
)
from fdfed.training.step import layout_of
from fdfed.wire import TrainInstruction

log = logging.getLogger(__name__)

_COTANGENT_SLACK = 1.01
"""Room for rounding in the bound on a cotangent's norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateAnswer:
    """What a round leaves, and what it releases beside the weights."""

    outcome: PrivateOutcome
    released: NDArray[np.float64] | None


class PrivateTraining:
    """One plan's private training at one site.

    Args:
        images: a `SiteData`.
        ledger: the site's, for all its runs.
        randomness: the system's in production.
        max_epsilon: the site's own bound; the smaller of it and the plan's is the budget.
        min_units: fewest training units that this site takes part with.

    Raises:
        InvalidInput: if the plan's network or δ cannot serve here.
        RefusedByPolicy: if the site has too few units, or protects more than the plan.
        PrivacyBudgetExceeded: if not even one round fits, or the ledger is damaged.
    """

    def __init__(
        self,
        site: str,
        plan: RunPlan,
        privacy: PrivacyPlan,
        network: SegmentationNetwork,
        images: object,
        *,
        ledger: Ledger,
        randomness: Randomness,
        max_epsilon: float | None = None,
        min_units: int = 2,
    ) -> None:
        if not isinstance(images, SiteData):
            raise InvalidInput(
                f"{site}'s images do not say whose they are; open them with fdfed.data.open_site"
            )
        self._site, self._plan, self._privacy = site, plan, privacy
        self._ledger, self._randomness = ledger, randomness
        self._units = training_units(images, privacy.unit)
        if len(self._units) < min_units:
            raise RefusedByPolicy(
                f"{site} has {len(self._units)} training {self._units.unit}(s); a private run "
                f"needs at least {min_units} here"
            )
        protects_weights = isinstance(privacy.weights, WeightsPrivacy)
        if protects_weights:
            check_hookable(network)
        elif max_epsilon is not None:
            raise RefusedByPolicy(
                f'{site} bounds ε (max_epsilon), but the plan says privacy.weights = "unprotected"'
            )
        count = len(self._units)
        delta = (
            derived_delta(count)
            if privacy.delta == "derived"
            else checked_delta(privacy.delta, count)
        )
        self._budget = Budget(min(privacy.epsilon, max_epsilon or math.inf), delta)
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
        continued: bool,
        optimizer_state: dict[str, Tensor] | None,
        on_step: Callable[[int], None] | None,
    ) -> PrivateAnswer:
        """Trains `network` in place, from the weights that came with the message.

        Args:
            continued: whether the site has a record of an earlier round of this run, and the ledger
                must know that round.

        Raises:
            PrivacyBudgetExceeded: before anything is computed, if the round does not fit.
        """
        if continued and not any(e.run_id == message.run_id for e in self._ledger.entries()):
            raise PrivacyBudgetExceeded(
                f"{self._site} has trained earlier rounds of this run, but its privacy ledger does "
                "not know them; put the ledger back, or treat the budget as spent"
            )
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
        return PrivateAnswer(outcome=outcome, released=released)

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

    def _releases(self, server_round: int) -> dict[str, Release]:
        """What one round releases."""
        made: dict[str, Release] = {}
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
        spent = [entry.release for entry in self._ledger.entries()]
        before = epsilon_of(spent, delta=self._budget.delta)
        fitting = 0
        for number in range(1, self._plan.rounds + 1):
            spent += self._releases(number).values()
            if epsilon_of(spent, delta=self._budget.delta) > self._budget.epsilon:
                break
            fitting = number
        if fitting == 0:
            raise PrivacyBudgetExceeded(
                f"{self._site} has spent ε = {before:.4g} (δ = {self._budget.delta:.3g}) of "
                f"{self._budget.epsilon:.4g}, and not one round of this plan fits into the rest; "
                "raise the noise multipliers, or lower steps_per_round"
            )
        log.info(
            "%s: %s; %d training %ss, δ = %.3g, ε spent before = %.4g, budget %.4g: enough for %s "
            "rounds",
            self._site,
            self._privacy.summary(),
            len(self._units),
            self._units.unit,
            self._budget.delta,
            before,
            self._budget.epsilon,
            f"all {fitting}" if fitting == self._plan.rounds else f"{fitting} of the "
            f"{self._plan.rounds}",
        )

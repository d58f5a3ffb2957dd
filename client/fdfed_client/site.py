"""A hospital's side of a run: it holds the images, trains, evaluates, and answers with aggregates.

The same object serves the agent and the simulation. Nothing of a single image or patient is in
any of its answers; per-image scores stay in `Site.image_scores` and in the site's own folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fdfed import __version__
from fdfed.config import RunPlan
from fdfed.data import SplitCounts
from fdfed.errors import PrivacyBudgetExceeded, RefusedByPolicy, WireError
from fdfed.evaluation.aggregates import ImageScore, aggregate
from fdfed.evaluation.scoring import predictions, scored
from fdfed.exchange import BlindedExchange, BlindingSecret, Exchange, ExchangeStats
from fdfed.layer_weights import propose
from fdfed.membership.roster import SignedRoster
from fdfed.networks import SegmentationNetwork
from fdfed.training.local_round import LocalRound, RoundOutcome, tap_losses, train_round_
from fdfed.training.sharing import take_tensors
from fdfed.training.site_state import SiteRecord, SiteStore
from fdfed.training.step import layout_of
from fdfed.wire import (
    EvaluateInstruction,
    EvaluateResult,
    MaskedResult,
    Part,
    Prepare,
    Prepared,
    Ready,
    ReadyRequest,
    RosterInForce,
    RosterRelay,
    SecretOffer,
    SecretRequest,
    TrainInstruction,
    TrainResult,
    changes_of,
)
from fdfed_client.local_model import (
    Images,
    LocalModel,
    OpenExchange,
    OpenImages,
    PrivacyAtSite,
    SecretOf,
)
from fdfed_client.masking import Masking, masked_result
from fdfed_client.plan_opening import PlanOpening
from fdfed_client.round_records import RoundRecords, load_

if TYPE_CHECKING:
    from fdfed_client.private_training import PrivateTraining


class Site:
    """One hospital in a run.

    Args:
        min_count: fewest images behind an aggregate that this site hands on. A plan may ask for
            more, never for fewer: the coordinator writes the plan.
        min_patients: likewise, fewest patients behind a prototype.
        open_images: called once a plan; the result is kept.
        open_exchange: likewise, for a plan whose loss is `fd+exch`.
        secret_of: the secret that blinds a round's prototypes; the default is a simulation's, which
            follows from the seed and hides nothing.
        make_secret: makes and seals one for all sites of a round; None where there are no keys.
        privacy: ledger and own bound on ε; without it a plan with differential privacy is refused.
        take_roster: looks at a roster and its signatures; gives the one in force afterwards.
        masking: keys and masks for a plan with masked aggregation; None where there are no keys.
        on_step: told (server_round, steps done, steps of the round) after every step.
        on_batch: called after every batch that was scored.
        on_result: given this site and every result before it is sent, or masked.
        watch_exchange: goes around the exchange of a round, for a simulation that looks into it.
    """

    def __init__(
        self,
        name: str,
        open_images: OpenImages,
        store: SiteStore,
        *,
        min_count: int = 1,
        min_patients: int = 1,
        device: torch.device | None = None,
        open_exchange: OpenExchange | None = None,
        secret_of: SecretOf = lambda message: BlindingSecret.known_to_all(message.plan.seed),
        make_secret: Callable[[SecretRequest], SecretOffer] | None = None,
        take_roster: Callable[[bytes, bytes], SignedRoster] | None = None,
        masking: Masking | None = None,
        privacy: PrivacyAtSite | None = None,
        on_step: Callable[[int, int, int], None] | None = None,
        on_batch: Callable[[], None] = lambda: None,
        on_result: Callable[[Site, TrainResult | EvaluateResult], None] | None = None,
        watch_exchange: Callable[[Exchange], Exchange] = lambda exchange: exchange,
    ) -> None:
        self.name = name
        self.min_count = min_count
        self.min_patients = min_patients
        self.device = device or torch.device("cpu")
        self.image_scores: tuple[ImageScore, ...] = ()
        """Scores of the test images, image by image, after the test; they never travel."""
        self.exchanged = ExchangeStats()
        """What the round trained last sent to the hub and got back, also if the round failed."""
        self.alpha: tuple[float, ...] = ()
        """α by tap of the round trained last."""
        self.budget_spent: PrivacyBudgetExceeded | None = None
        """Why a round was refused, if one was because the privacy budget is spent."""
        self._opening = PlanOpening(
            name,
            open_images,
            min_patients=min_patients,
            device=self.device,
            open_exchange=open_exchange,
            privacy=privacy,
        )
        self._records = RoundRecords(store)
        self._secret_of = secret_of
        self._make_secret = make_secret
        self._take_roster = take_roster
        self._masking = masking
        self._on_step = on_step
        self._on_batch = on_batch
        self._on_result = on_result
        self._watch_exchange = watch_exchange
        self._model: LocalModel | None = None

    def prepare(self, message: Prepare) -> Prepared:
        """Opens and checks the images for the plan, and counts them.

        Raises:
            DataError: with all findings, if the images cannot be used.
            RefusedByPolicy: if the plan is for phantoms and these are not, or the reverse.
        """
        images = self._ready(message.plan).images
        counts = images.counts
        return Prepared(
            site=self.name,
            num_train=counts.train,
            num_validation=counts.validation,
            num_test=counts.test,
            num_empty=counts.empty_masks if message.plan.privacy is None else 0,
            phantoms=images.phantoms,
            version=__version__,
        )

    def offer(self, message: SecretRequest) -> SecretOffer:
        """A fresh secret for a round's blinding, sealed to its members.

        Raises:
            CryptoError: if a member is not one that this site shares secrets with.
            RefusedByPolicy: if this site has no keys to make one with, as in a simulation.
        """
        if self._make_secret is None:
            raise RefusedByPolicy(f"{self.name} has no keys to make a secret with")
        return self._make_secret(message)

    def take_roster(self, message: RosterRelay) -> RosterInForce:
        """Which roster is in force here, after the one that was relayed was looked at.

        Raises:
            CryptoError: if it is not signed by the consortium, or does not follow the current one.
            RefusedByPolicy: if this site goes by no roster, as in a simulation.
        """
        if self._take_roster is None:
            raise RefusedByPolicy(f"{self.name} goes by no roster")
        found = self._take_roster(message.roster.encode(), message.signatures.encode())
        return RosterInForce(version=found.roster.version, digest=found.digest)

    def ready(self, message: ReadyRequest) -> Ready:
        """A fresh masking key for an attempt of a round, signed.

        Raises:
            CryptoError: if the attempt is not a new one.
            RefusedByPolicy: if this site has no keys to sign with.
        """
        return self._keys().ready(message)

    def train(self, message: TrainInstruction) -> TrainResult | MaskedResult:
        """Trains one round. A round that is asked again gives the same answer again; with masked
        aggregation, an attempt is answered once and the next one trained anew; with differential
        privacy it is drawn anew, and counted once more.

        Raises:
            CryptoError: if the keys to mask with do not verify in every respect.
            ExchangeIncomplete: if the plan requires the cross-site term and a step had none.
            PrivacyBudgetExceeded: if the round does not fit into the budget.
            WireError: if the weights or α are not of the plan's network.
        """
        self.exchanged, self.alpha = ExchangeStats(), tuple(message.alpha.tolist())
        model = self._ready(message.plan)
        # Before the training: what does not verify costs no time.
        is_masked = message.plan.aggregation == "masked"
        masks = self._keys().masks_of(message) if is_masked else None
        before = self._records.before(message)
        load_(model, message.weights, before)
        if len(message.alpha) != len(model.network.tap_names):
            raise WireError(f"α has {len(message.alpha)} entries, not one for each tap")
        if model.private is None:
            result = self._train_openly(model, message, before)
        else:
            result = self._train_privately(model, model.private, message, before)
        if self._on_result is not None:
            self._on_result(self, result)
        return result if masks is None else masked_result(result, masks, plan=message.plan)

    def _train_openly(
        self, model: LocalModel, message: TrainInstruction, before: SiteRecord | None
    ) -> TrainResult:
        try:
            outcome = self._train_(model, message, before)
        finally:
            if model.exchange is not None:
                self.exchanged = model.exchange.take_stats()
        sent = self._keep(model, message, before, outcome.optimizer_state)
        taps = len(model.network.tap_names)
        fd, exch = outcome.means.fd_by_tap(taps), outcome.means.exch_by_tap(taps)
        alpha = message.alpha
        if message.phase == 2:
            losses = tap_losses(message.plan, fd, exch)
            alpha = propose(alpha, losses, message.target, plan=message.plan.alpha)
        return TrainResult(
            run_id=message.run_id,
            server_round=message.server_round,
            attempt=message.attempt,
            num_examples=model.images.counts.train,
            loss_seg=outcome.means.loss_seg(),
            seconds=outcome.seconds,
            alpha=alpha,
            fd=fd,
            exch=exch,
            valid=outcome.means.valid_by_tap(taps),
            exchange=_used(self.exchanged, answered=outcome.means.answered),
            weights=sent,
        )

    def _train_privately(
        self,
        model: LocalModel,
        private: PrivateTraining,
        message: TrainInstruction,
        before: SiteRecord | None,
    ) -> TrainResult:
        try:
            answer = private.train_(
                model.network,
                message,
                after_round=None if before is None else before.server_round,
                optimizer_state=None if before is None else before.part("optimizer"),
                on_step=self._step_callback(message),
            )
        except PrivacyBudgetExceeded as err:
            self.budget_spent = err
            raise
        # Rounded after the noise: no less private, since nothing but what it covers enters.
        sent = self._keep(model, message, before, answer.optimizer_state)
        return replace(answer.result, weights=sent)

    def _keep(
        self,
        model: LocalModel,
        message: TrainInstruction,
        before: SiteRecord | None,
        optimizer_state: Mapping[str, Tensor],
    ) -> dict[str, NDArray[Any]]:
        """Writes the record of the round that was trained; gives the weights as they travel.

        The residual of their rounding is in the record, so that a round that is asked again adds
        the same one again, also after the agent was killed.
        """
        weights = take_tensors(model.network, model.shared)
        residual: dict[str, NDArray[np.float32]] = {}
        if message.plan.update_precision != "full":
            old = {} if before is None else before.part("residual")
            weights, residual = changes_of(
                weights,
                message.weights,
                {name: tensor.numpy() for name, tensor in old.items()},
                trained=frozenset(dict(model.network.named_parameters())),
                precision=message.plan.update_precision,
            )
        self._records.keep(model, message, optimizer_state, residual=residual)
        return weights

    def evaluate(self, message: EvaluateInstruction) -> EvaluateResult:
        """Scores the weights on one part: aggregates over the site's minimum count of images, or
        the plan's if that is larger, or none."""
        model = self._ready(message.plan)
        load_(model, message.weights, self._records.of_round(message))
        scores = self.score(message.part)
        if message.part == "test":
            self.image_scores = scores
        count = max(self.min_count, message.plan.min_count)
        result = EvaluateResult(
            run_id=message.run_id,
            server_round=message.server_round,
            part=message.part,
            dice=aggregate((score.dice for score in scores), min_count=count),
            iou=aggregate((score.iou for score in scores), min_count=count),
            privacy=None if model.private is None else model.private.spent(),
        )
        if self._on_result is not None:
            self._on_result(self, result)
        return result

    def score(self, part: Part) -> tuple[ImageScore, ...]:
        """Dice and IoU of each image of a part with the weights now loaded; for the site alone."""
        return scored(self.predict(part))

    def predict(
        self, part: Part, *, images: Images | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, tuple[str, ...]]]:
        """Image, mask, logits and names, batch by batch, on the CPU in fp32.

        Args:
            images: other images than the site's own, for a simulation that pools sites.
        """
        model = self._current()
        batches = (images or model.images).evaluation_batches(part)
        for batch in predictions(model.network, batches, precision=model.local_plan.precision):
            yield batch
            self._on_batch()

    @property
    def model(self) -> LocalModel:
        """What the site holds for the plan that it works on."""
        return self._current()

    @property
    def network(self) -> SegmentationNetwork:
        """The network with the weights loaded last."""
        return self._current().network

    @property
    def plan(self) -> RunPlan:
        """The plan that the site works on."""
        return self._current().plan

    @property
    def counts(self) -> SplitCounts:
        """The site's images by part."""
        return self._current().images.counts

    def _current(self) -> LocalModel:
        if self._model is None:
            raise WireError(f"{self.name} was asked to predict before it had a plan")
        return self._model

    def _ready(self, plan: RunPlan) -> LocalModel:
        if self._model is not None and self._model.plan == plan:
            return self._model
        if plan.aggregation == "masked":
            self._keys()
        if self._masking is not None:
            self._masking.check(plan)
        images = self._opening.images_of(plan)
        self.close()
        self._model = self._opening.model_of(plan, images)
        return self._model

    def _keys(self) -> Masking:
        if self._masking is None:
            raise RefusedByPolicy(f"{self.name} has no keys to mask its updates with")
        return self._masking

    def _blinded(self, model: LocalModel, message: TrainInstruction) -> Exchange | None:
        if model.exchange is None:
            return None
        blinded = BlindedExchange(
            model.exchange,
            self._secret_of(message),
            layout_of(model.network),
            unit_length=message.plan.method.bound == "normalise",
            max_staleness=message.plan.exchange.max_staleness,
        )
        return self._watch_exchange(blinded)

    def close(self) -> None:
        """Ends the exchange stream, if one is open."""
        if self._model is not None and self._model.exchange is not None:
            self._model.exchange.close()

    def _train_(
        self, model: LocalModel, message: TrainInstruction, before: SiteRecord | None
    ) -> RoundOutcome:
        plan = model.local_plan
        measured = message.phase == 2 and plan.has_discrepancy
        request = LocalRound(
            plan=plan,
            run_id=message.run_id,
            server_round=message.server_round,
            attempt=message.attempt,
            alpha=message.alpha if measured else None,
            exchange=self._blinded(model, message) if measured else None,
            cotangent_scale=_inverse_share(message, model.images.counts.train),
        )
        return train_round_(
            model.network,
            model.images,
            request,
            auxiliary=model.auxiliary,
            optimizer_state=before.part("optimizer") if before is not None else None,
            on_step=self._step_callback(message),
        )

    def _step_callback(self, message: TrainInstruction) -> Callable[[int], None] | None:
        told = self._on_step
        if told is None:
            return None
        return lambda done: told(message.server_round, done, message.plan.steps_per_round)


def _inverse_share(message: TrainInstruction, examples: int) -> float:
    """One over the share that this site's update has in the aggregate: N / n_s, or the number of
    sites where they count equally."""
    if message.plan.aggregation == "robust":
        return float(len(message.plan.sites))
    return message.total_examples / examples


def _used(stats: ExchangeStats, *, answered: int) -> ExchangeStats:
    """`stats`, in which a reply that the training step did not accept counts as dropped."""
    return replace(stats, answered=answered, dropped=stats.steps - answered)

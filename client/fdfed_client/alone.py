"""The models that a site makes without the others: its own local one, and the federation's,
trained on here."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from fdfed.config import RunPlan
from fdfed.evaluation.aggregates import aggregate
from fdfed.evaluation.scoring import scores_of
from fdfed.layer_weights import aggregate as clip_alpha
from fdfed.layer_weights import propose, starting_alpha, target_of, weighed_taps
from fdfed.networks import SegmentationNetwork
from fdfed.training.fastest import USUAL, lay_out_
from fdfed.training.initialise import initial_auxiliary, initial_network
from fdfed.training.local_round import LocalRound, tap_losses, train_round_
from fdfed.training.site_state import SiteRecord, SiteStore
from fdfed_client.local_model import Images, copies

FINE_TUNING_SHARE: Final = 0.1
"""Steps of fine-tuning over those of the run, rounded up to whole rounds."""
FINE_TUNING_RATE: Final = 0.1
"""Learning rate of fine-tuning over the plan's: the weights are good already, and the optimiser
begins without moments."""
_UNSCORED: Final = -1.0

OnStep = Callable[[int, int], None]
"""Told the round, and the steps of it that are done."""


def plan_alone(plan: RunPlan, site: str) -> RunPlan:
    """`plan` as the site could have trained it by itself: the same network, steps, batches and
    phases; the loss without its cross-site part, which needs peers; nothing leaves, so nothing is
    masked and no noise is added."""
    loss = "fd" if plan.effective_loss == "fd+exch" else plan.effective_loss
    own: dict[str, Any] = {
        "sites": [site],
        "strategy": "local",
        "loss": loss,
        "aggregation": "plain",
        "privacy": None,
        "quorum": None,
        "defence": {},
    }
    return RunPlan.model_validate(plan.model_dump(mode="json") | own)


@dataclass(frozen=True, slots=True)
class _Standing:
    """What the training holds between two rounds, beside weights and moments."""

    alpha: NDArray[np.float64]
    target: NDArray[np.float64] | None = None
    best_round: int = 0
    best_score: float = _UNSCORED

    @classmethod
    def of(cls, record: SiteRecord) -> _Standing:
        kept = record.part("alone")
        best_round, best_score = kept["best"].tolist()
        target = kept.get("target")
        return cls(
            kept["alpha"].numpy(),
            None if target is None else target.numpy(),
            int(best_round),
            best_score,
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        best = torch.tensor([self.best_round, self.best_score], dtype=torch.float64)
        kept = {"alone.alpha": torch.from_numpy(self.alpha.copy()), "alone.best": best}
        if self.target is not None:
            kept["alone.target"] = torch.from_numpy(self.target.copy())
        return kept


class TrainingAlone:
    """A site's local model, trained for the rounds and steps of a plan, a round at a time.

    The same as a federation of this one site with `strategy = "local"`, to the bit: the same
    batches, phases, α and choice of the best round. After an interruption it goes on after its last
    complete round.

    Args:
        plan: the federation's.
        store: of this training alone.
        run_id: the federation's run; its records are kept apart from those of other runs.
    """

    def __init__(
        self,
        plan: RunPlan,
        images: Images,
        *,
        site: str,
        store: SiteStore,
        run_id: str,
        device: torch.device,
    ) -> None:
        self.plan = plan_alone(plan, site)
        self._images = images
        self._store = store
        self._run_id = run_id
        self._network = initial_network(self.plan).to(device)
        lay_out_(self._network, channels_last=USUAL.channels_last)
        self._weighed = weighed_taps(self._network.tap_names, self.plan.alpha)
        self._initial = copies(self._network)
        self._auxiliary = initial_auxiliary(self.plan, self._network)
        self._initial_heads = copies(self._auxiliary)

    @property
    def rounds_done(self) -> int:
        """Rounds that are complete and on disk."""
        return max(self._store.rounds(self._run_id), default=0)

    @property
    def done(self) -> bool:
        """Whether all rounds of the plan are trained."""
        return self.rounds_done >= self.plan.rounds

    @property
    def steps(self) -> int:
        """Training steps of the whole plan."""
        return self.plan.rounds * self.plan.steps_per_round

    def train_round(self, on_step: OnStep = lambda server_round, done: None) -> None:
        """Trains and keeps the next round."""
        number = self.rounds_done + 1
        before = self._store.load_before(self._run_id, number)
        standing = self._initial_standing() if before is None else _Standing.of(before)
        optimizer = None if before is None else before.part("optimizer")
        if before is not None and before.phase != self.plan.phase(number):
            # Phase 2 seeks its own best.
            standing = replace(standing, alpha=self._starting_alpha(), best_score=_UNSCORED)
            if self.plan.phase_2_start == "last":
                standing = replace(standing, best_round=before.server_round)
            else:
                before = self._store.load_before(self._run_id, standing.best_round + 1)
                optimizer = None
        self._load(before)
        measured = self.plan.phase(number) == 2
        outcome = train_round_(
            self._network,
            self._images,
            LocalRound(
                plan=self.plan,
                run_id=self._run_id,
                server_round=number,
                attempt=1,
                alpha=standing.alpha if measured else None,
            ),
            auxiliary=self._auxiliary,
            optimizer_state=optimizer,
            on_step=partial(on_step, number),
        )
        if measured:
            standing = self._with_next_alpha(standing, number, outcome.means.fd_by_tap(self._taps))
        if self.plan.is_evaluated(number):
            score = self._validation_dice()
            if score >= standing.best_score:
                standing = replace(standing, best_round=number, best_score=score)
        tensors = {f"optimizer.{name}": value for name, value in outcome.optimizer_state.items()}
        tensors |= {f"local.{name}": value for name, value in copies(self._network).items()}
        tensors |= {f"auxiliary.{name}": value for name, value in copies(self._auxiliary).items()}
        record = SiteRecord(
            server_round=number,
            phase=self.plan.phase(number),
            tensors=tensors | standing.tensors(),
        )
        self._store.save(self._run_id, record)
        self._store.prune(self._run_id, keep=standing.best_round)

    def best(self) -> SegmentationNetwork:
        """The network with the weights of the best round of the last phase."""
        newest = self._store.load_before(self._run_id, self.rounds_done + 1)
        if newest is not None:
            best_round = _Standing.of(newest).best_round
            self._load(self._store.load_before(self._run_id, best_round + 1))
        return self._network

    @property
    def _taps(self) -> int:
        return len(self._network.tap_names)

    def _starting_alpha(self) -> NDArray[np.float64]:
        plan = self.plan
        rounds = plan.rounds - plan.phase_1_rounds
        alpha = starting_alpha(self._taps, plan=plan.alpha, phase_2_rounds=rounds)
        return np.where(self._weighed, alpha, 0.0)

    def _initial_standing(self) -> _Standing:
        in_phase_1 = self.plan.phase(1) == 1
        return _Standing(np.zeros(self._taps) if in_phase_1 else self._starting_alpha())

    def _with_next_alpha(
        self, standing: _Standing, number: int, fd: NDArray[np.float64]
    ) -> _Standing:
        """As `fdfed_server.Strategy` does it with the proposals of one site."""
        plan, alone = self.plan, np.ones(1)
        losses = tap_losses(plan, fd, np.full_like(fd, np.nan))
        proposal = propose(standing.alpha, losses, standing.target, plan=plan.alpha)
        alpha = clip_alpha(
            proposal[None],
            alone,
            plan=plan.alpha,
            phase_2_round=number - plan.phase_1_rounds,
            phase_2_rounds=plan.rounds - plan.phase_1_rounds,
        )
        alpha = np.where(self._weighed, alpha, 0.0)
        known = standing.target
        if known is None or np.isnan(known).any():
            found = target_of(losses[None], alone, margin=plan.alpha.margin)
            known = found if known is None else np.where(np.isnan(known), found, known)
        return replace(standing, alpha=alpha, target=known)

    def _validation_dice(self) -> float:
        scored = validation_dice(self._network, self._images, self.plan)
        return _UNSCORED if scored is None else scored

    def _load(self, record: SiteRecord | None) -> None:
        self._network.load_state_dict(self._initial if record is None else record.part("local"))
        if self._auxiliary is not None:
            heads = {} if record is None else record.part("auxiliary")
            self._auxiliary.load_state_dict(heads or self._initial_heads)


def fine_tuned(
    shared: SegmentationNetwork,
    plan: RunPlan,
    images: Images,
    *,
    site: str,
    on_step: OnStep = lambda server_round, done: None,
) -> tuple[SegmentationNetwork, int]:
    """A copy of `shared`, trained on with L_seg on the site's own images, and the steps made.

    It has `FINE_TUNING_SHARE` of the plan's steps at `FINE_TUNING_RATE` of its learning rate, and
    is scored on the validation images after every round's worth; the best of these is returned. The
    batches go on where those of the run ended.
    """
    rounds = math.ceil(plan.rounds * FINE_TUNING_SHARE)
    own = RunPlan.model_validate(
        plan_alone(plan, site).model_dump(mode="json")
        | {
            "loss": "seg",
            "learning_rate": plan.learning_rate * FINE_TUNING_RATE,
            # Its rounds lie behind the plan's, where a falling rate has ended.
            "learning_rate_schedule": "constant",
        }
    )
    network, optimizer = copy.deepcopy(shared), None
    best, best_score = copies(network), _UNSCORED
    for number in range(plan.rounds + 1, plan.rounds + rounds + 1):
        outcome = train_round_(
            network,
            images,
            LocalRound(plan=own, run_id="", server_round=number, attempt=1, alpha=None),
            optimizer_state=optimizer,
            on_step=partial(on_step, number),
        )
        optimizer = outcome.optimizer_state
        score = validation_dice(network, images, own)
        if (_UNSCORED if score is None else score) >= best_score:
            best, best_score = copies(network), _UNSCORED if score is None else score
    network.load_state_dict(best)
    return network, rounds * plan.steps_per_round


def validation_dice(network: SegmentationNetwork, images: Images, plan: RunPlan) -> float | None:
    """Mean Dice over the site's validation images; None if none can be scored."""
    batches = images.evaluation_batches("validation")
    scores = scores_of(network, batches, precision=plan.precision)
    found = aggregate((score.dice for score in scores), min_count=1)
    return None if found is None else found.mean

"""Federated averaging in one process, with hooks for what a compared method adds to it."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.data import SiteData
from fdfed.errors import InvalidInput
from fdfed.evaluation.aggregates import aggregate
from fdfed.evaluation.metrics import image_scores
from fdfed.evaluation.results import RoundRecord, SiteRound, Traffic
from fdfed.evaluation.whole_image import whole_image_logits
from fdfed.losses import AuxiliaryLoss
from fdfed.networks import SegmentationNetwork
from fdfed.studies.trainers.round_store import RoundStore
from fdfed.training.fastest import USUAL, lay_out_
from fdfed.training.initialise import initial_network
from fdfed.training.local_round import CorrectGradients, LocalRound, train_round_
from fdfed.training.precision import autocast
from fdfed.training.sharing import put_tensors_, shared_names, take_tensors
from fdfed_server.aggregation import WeightedAverage
from fdfed_server.selection import displaces

Weights = dict[str, NDArray[Any]]

COMMON: Final = "common"
"""The key of the weights that all sites use."""
_BEST: Final = "best"
_OPTIMIZER: Final = "optimizer"
_OWN: Final = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished training."""

    history: tuple[RoundRecord, ...]
    networks: Mapping[str, SegmentationNetwork]
    """By site, with the best weights that it may use."""


class Trainer:
    """Federated averaging of the plan, site after site.

    A method overrides what it does otherwise: `_local_round` or the two hooks within it,
    `_averaged` after a round's average, `_model_of` for the weights that a site uses, and
    `_own_state`.

    Args:
        plan: with `loss = "seg"`; the terms of a method are not those of a plan.
        folder: keeps the newest round; a trainer that is made again goes on from there.
        parameters: the method's own.
        device: where networks are computed; the CPU if None.

    Raises:
        InvalidInput: for a parameter that the method does not have, or a plan with another loss or
            with rounded updates.
    """

    defaults: ClassVar[Mapping[str, float]] = {}
    """The method's parameters."""
    site_models: ClassVar[bool] = False
    """Whether each site uses weights of its own."""

    def __init__(
        self,
        plan: RunPlan,
        sites: Mapping[str, SiteData],
        folder: Path,
        parameters: Mapping[str, float],
        device: torch.device | None = None,
    ) -> None:
        foreign = sorted(set(parameters) - set(self.defaults))
        if foreign or plan.effective_loss != "seg" or plan.strategy != "fedavg":
            raise InvalidInput(
                f"{type(self).__name__} got the parameters {', '.join(foreign) or 'it has'} and a "
                f"plan with strategy = {plan.strategy}, loss = {plan.effective_loss}; it needs "
                f"fedavg and seg, and takes {', '.join(self.defaults) or 'no parameters'}"
            )
        if plan.update_precision != "full":
            raise InvalidInput(
                f"{type(self).__name__} sends no updates, and the plan has update_precision = "
                f"{plan.update_precision}; leave that out"
            )
        self.plan = plan
        self.sites = dict(sites)
        self.parameters = {**self.defaults, **parameters}
        self.device = device or torch.device("cpu")
        self.network = initial_network(plan).to(self.device)
        lay_out_(self.network, channels_last=USUAL.channels_last)
        self._names = shared_names(self.network, plan.strategy)
        self._trained = frozenset(dict(self.network.named_parameters()))
        self.common: Weights = take_tensors(self.network, self._names)
        self.optimizers: dict[str, dict[str, Tensor]] = {site: {} for site in sites}
        self.history: list[RoundRecord] = []
        self._best: dict[str, tuple[int, Weights]] = {}
        self._store = RoundStore(folder)
        self._made()
        found = self._store.load()
        if found is not None:
            self._restore(*found)

    @property
    def shares(self) -> dict[str, float]:
        """n_s / N of each site."""
        counts = {site: len(images.parts["train"]) for site, images in self.sites.items()}
        return {site: count / sum(counts.values()) for site, count in counts.items()}

    def train(self) -> Trained:
        """Trains what is left of the plan's rounds."""
        while len(self.history) < self.plan.rounds:
            self._round(len(self.history) + 1)
        networks = {}
        for site in self.sites:
            put_tensors_(self.network, self._best[self._key(site)][1])
            networks[site] = copy.deepcopy(self.network).eval()
        return Trained(history=tuple(self.history), networks=networks)

    # --- what a method may do otherwise

    def _made(self) -> None:
        """Makes the method's own state; called once, before anything is restored."""

    def _local_round(self, site: str, number: int) -> None:
        """Trains `self.network`, which holds the common weights, in place."""
        outcome = train_round_(
            self.network,
            self.sites[site],
            self._request(number),
            extra=self._extra_loss(site),
            correct_gradients_=self._corrector(site),
            optimizer_state=self.optimizers[site] or None,
        )
        self.optimizers[site] = outcome.optimizer_state

    def _extra_loss(self, site: str) -> AuxiliaryLoss | None:
        """Added to L_seg in the site's round."""
        return None

    def _corrector(self, site: str) -> CorrectGradients | None:
        """Changes the site's gradients before each step."""
        return None

    def _averages(self, number: int) -> bool:
        """Whether the round ends with an average."""
        return True

    def _evaluates(self, number: int) -> bool:
        """Whether the round's models are scored on the validation parts."""
        return self.plan.is_evaluated(number)

    def _averaged(self, number: int) -> None:
        """After all sites trained and the common weights are new."""

    def _extra_bytes(self) -> int:
        """That every site sends in a round beside its weights, and gets."""
        return 0

    def _model_of(self, site: str) -> Weights:
        """The weights that the site would use now."""
        return self.common

    def _own_state(self) -> dict[str, Tensor]:
        """The method's state, to be kept with the round."""
        return {}

    def _take_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes what `_own_state` gave."""

    # --- the loop

    def _request(self, number: int) -> LocalRound:
        return LocalRound(plan=self.plan, run_id=COMMON, server_round=number, attempt=1, alpha=None)

    def _round(self, number: int) -> None:
        began = time.perf_counter()
        average = WeightedAverage(self.common, measured=self._trained)
        for site, images in self.sites.items():
            put_tensors_(self.network, self.common)
            self._local_round(site, number)
            average.fold(
                take_tensors(self.network, self._names), num_examples=len(images.parts["train"])
            )
        averages = self._averages(number)
        if averages:
            self.common = average.result()
        self._averaged(number)
        evaluated = self._evaluates(number)
        dice = {site: self._validate(site) for site in self.sites} if evaluated else {}
        record = RoundRecord(
            round=number,
            phase=1,
            sites={site: SiteRound(val_dice=dice.get(site)) for site in self.sites},
            seconds=time.perf_counter() - began,
            bytes=self._traffic(evaluated=evaluated) if averages else Traffic(),
        )
        self.history.append(record)
        if evaluated:
            self._note_best(record)
        self._keep(number)

    def _traffic(self, *, evaluated: bool) -> Traffic:
        """As the deployed round counts: the weights once up and down, and down again to score."""
        weights = sum(value.nbytes for value in self.common.values())
        one_way = len(self.sites) * (weights + self._extra_bytes())
        return Traffic(up=one_way, down=one_way + evaluated * len(self.sites) * weights)

    @torch.no_grad()
    def _validate(self, site: str) -> float | None:
        put_tensors_(self.network, self._model_of(site))
        self.network.eval()
        scores: list[float] = []
        for image, mask, names in self.sites[site].evaluation_batches("validation"):
            with autocast(self.plan.precision, self.device):
                logits = whole_image_logits(self.network, image.to(self.device))
            scores += [entry.dice for entry in image_scores(logits.float(), mask, names)]
        mean = aggregate(scores, min_count=self.plan.min_count)
        return None if mean is None else mean.mean

    def _key(self, site: str) -> str:
        return site if self.site_models else COMMON

    def _note_best(self, record: RoundRecord) -> None:
        if self.site_models:
            self._note_own_best(record)
        else:
            self._note_common_best(record)

    def _note_common_best(self, record: RoundRecord) -> None:
        """The deployed strategy's rule for common weights: by the mean over sites, of equals the
        newer."""
        best = self._best.get(COMMON)
        before = None if best is None else self.history[best[0] - 1]
        scored = before if before is not None and before.mean_val_dice is not None else None
        if displaces(record, scored):
            self._best[COMMON] = (record.round, self.common)

    def _note_own_best(self, record: RoundRecord) -> None:
        """The same for a site's own weights: by its own score."""
        for site in self.sites:
            new, best = record.sites[site].val_dice, self._best.get(site)
            old = None if best is None else self.history[best[0] - 1].sites[site].val_dice
            if old is None or (new is not None and new >= old):
                self._best[site] = (record.round, self._model_of(site))

    def _keep(self, number: int) -> None:
        tensors: dict[str, Tensor] = _named(COMMON, _tensors(self.common))
        for key, (_, weights) in self._best.items():
            tensors |= _named(f"{_BEST}/{key}", _tensors(weights))
        for site, optimizer in self.optimizers.items():
            tensors |= _named(f"{_OPTIMIZER}/{site}", optimizer)
        tensors |= _named(_OWN, self._own_state())
        document = {
            "best": {key: rounds for key, (rounds, _) in self._best.items()},
            "history": [
                {
                    "dice": {site: entry.val_dice for site, entry in record.sites.items()},
                    "seconds": record.seconds,
                    "up": record.bytes.up,
                    "down": record.bytes.down,
                }
                for record in self.history
            ],
        }
        self._store.save(number, tensors, document)

    def _restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
        self.common = _arrays(_below(COMMON, tensors))
        self._best = {
            key: (rounds, _arrays(_below(f"{_BEST}/{key}", tensors)))
            for key, rounds in document["best"].items()
        }
        self.optimizers = {
            site: _below(f"{_OPTIMIZER}/{site}", tensors) for site in self.optimizers
        }
        self._take_state(_below(_OWN, tensors))
        self.history = [
            RoundRecord(
                round=number,
                phase=1,
                sites={site: SiteRound(val_dice=dice) for site, dice in entry["dice"].items()},
                seconds=entry["seconds"],
                bytes=Traffic(up=entry["up"], down=entry["down"]),
            )
            for number, entry in enumerate(document["history"], start=1)
        ]


def _tensors(weights: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in weights.items()}


def _arrays(tensors: Mapping[str, Tensor]) -> Weights:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}

"""Methods in which each site ends with a model of its own: Ditto, and fine-tuning of the common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from fdfed.evaluation.results import RoundRecord
from fdfed.studies.trainers.loop import COMMON, Trainer, Weights
from fdfed.training.local_round import proximal, train_round_
from fdfed.training.sharing import put_tensors_, take_tensors

_OPTIMIZER: Final = "-optimizer"
"""No site's name begins so."""


class Ditto(Trainer):
    """Beside its part in federated averaging each site trains v_s on L_seg + λ/2 ‖v_s − W‖².

    W are the common weights that the round began with; v_s makes as many steps, on the same
    batches, with an optimiser of its own. The site uses v_s. Source: Li et al. 2021,
    arXiv:2012.04221, Algorithm 1. A site's work is doubled.
    """

    defaults: ClassVar[Mapping[str, float]] = {"weight": 0.1}
    site_models: ClassVar[bool] = True

    def _made(self) -> None:
        self.personal: dict[str, Weights] = dict.fromkeys(self.sites, self.common)
        self._own_optimizers: dict[str, dict[str, Tensor]] = {site: {} for site in self.sites}

    def _local_round(self, site: str, number: int) -> None:
        pull = proximal(self.network, self.parameters["weight"])
        super()._local_round(site, number)
        shared = take_tensors(self.network, tuple(self.common))
        put_tensors_(self.network, self.personal[site])
        outcome = train_round_(
            self.network,
            self.sites[site],
            self._request(number),
            correct_gradients_=pull,
            optimizer_state=self._own_optimizers[site] or None,
        )
        self._own_optimizers[site] = outcome.optimizer_state
        self.personal[site] = take_tensors(self.network, tuple(self.common))
        put_tensors_(self.network, shared)

    def _model_of(self, site: str) -> Weights:
        return self.personal[site]

    def _own_state(self) -> dict[str, Tensor]:
        optimizers = {
            f"{_OPTIMIZER}/{site}/{name}": tensor
            for site, tensors in self._own_optimizers.items()
            for name, tensor in tensors.items()
        }
        return _by_site(self.personal) | optimizers

    def _take_state(self, tensors: Mapping[str, Tensor]) -> None:
        for site in self.sites:
            self.personal[site] = _of_site(site, tensors)
            start = f"{_OPTIMIZER}/{site}/"
            self._own_optimizers[site] = {
                n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)
            }


class FineTuning(Trainer):
    """Federated averaging, then each site trains on by itself for the last `share` of the rounds.

    It begins there with the best common weights and a fresh optimiser, and keeps what scores best
    on its validation images, the common weights among them: a site that gains nothing loses
    nothing. The steps are those of the other methods in all.
    """

    defaults: ClassVar[Mapping[str, float]] = {"share": 0.2}
    site_models: ClassVar[bool] = True

    def _made(self) -> None:
        self.own: dict[str, Weights] = {}

    @property
    def _common_rounds(self) -> int:
        tuned = round(self.parameters["share"] * self.plan.rounds)
        return min(self.plan.rounds - 1, max(1, self.plan.rounds - tuned))

    def _averages(self, number: int) -> bool:
        return number <= self._common_rounds

    def _evaluates(self, number: int) -> bool:
        return number == self._common_rounds or super()._evaluates(number)

    def _local_round(self, site: str, number: int) -> None:
        if not self._averages(number):
            if site not in self.own:
                self._best[site] = self._best[COMMON]
                self.own[site] = self._best[COMMON][1]
                self.optimizers[site] = {}
            put_tensors_(self.network, self.own[site])
        super()._local_round(site, number)
        if not self._averages(number):
            self.own[site] = take_tensors(self.network, tuple(self.common))

    def _note_best(self, record: RoundRecord) -> None:
        if self._averages(record.round):
            self._note_common_best(record)
        else:
            self._note_own_best(record)

    def _model_of(self, site: str) -> Weights:
        return self.own.get(site, self.common)

    def _own_state(self) -> dict[str, Tensor]:
        return _by_site(self.own)

    def _take_state(self, tensors: Mapping[str, Tensor]) -> None:
        if tensors:
            self.own = {site: _of_site(site, tensors) for site in self.sites}


def _by_site(weights: Mapping[str, Weights]) -> dict[str, Tensor]:
    return {
        f"{site}/{name}": torch.from_numpy(np.asarray(value))
        for site, values in weights.items()
        for name, value in values.items()
    }


def _of_site(site: str, tensors: Mapping[str, Tensor]) -> Weights:
    start = f"{site}/"
    return {n.removeprefix(start): t.numpy() for n, t in tensors.items() if n.startswith(start)}

"""Methods that exchange class prototypes once a round, and pull features towards them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fdfed.config import MethodPlan
from fdfed.losses import AuxiliaryLoss, Moment
from fdfed.prototypes import batch_prototypes, masked_prototypes
from fdfed.studies.trainers.loop import Trainer

TEMPERATURE: Final = 0.1
"""τ of the InfoNCE term."""

Pair = tuple[Tensor, Tensor]
"""Foreground and background prototype of a tap, `(channels,)` each."""


class PrototypePull(AuxiliaryLoss):
    """λ times the mean over taps of a distance between a batch's prototypes and everybody's.

    The latter are those of the round before, without a gradient; in the first round there are none
    and the loss is zero. Gathers the batch means of the round as it goes.

    Args:
        taps: where prototypes are taken.
        towards: everybody's, by tap; empty in the first round.
    """

    default_weight: ClassVar[float] = 0.1

    def __init__(
        self, tap_channels: Mapping[str, int], *, weight: float, towards: Mapping[str, Pair]
    ) -> None:
        super().__init__(tap_channels, weight=weight)
        self.towards = dict(towards)
        self._sums: dict[str, Pair] = {}
        self._batches: dict[str, int] = {}

    def _loss(self, taps: Mapping[str, Tensor], mask: Tensor, when: Moment) -> Tensor:
        method, terms = MethodPlan(), []
        for tap in self.tap_channels:
            foreground, background, any_valid = batch_prototypes(
                *masked_prototypes(
                    taps[tap],
                    mask,
                    pooling=method.pooling,
                    mask_pooling=method.mask_pooling,
                )
            )
            if not any_valid:
                continue
            self._gather(tap, foreground.detach(), background.detach())
            if tap in self.towards:
                terms.append(self._distance(foreground, background, *self.towards[tap]))
        if not terms:
            return next(iter(taps.values())).new_zeros(())
        return self.weight * torch.stack(terms).mean()

    def _gather(self, tap: str, foreground: Tensor, background: Tensor) -> None:
        before = self._sums.get(tap, (torch.zeros(()), torch.zeros(())))
        self._sums[tap] = (before[0] + foreground, before[1] + background)
        self._batches[tap] = self._batches.get(tap, 0) + 1

    @property
    def means(self) -> dict[str, Pair]:
        """The mean over the round's batches, by tap; a tap that no batch had is left out."""
        return {
            tap: (sums[0] / self._batches[tap], sums[1] / self._batches[tap])
            for tap, sums in self._sums.items()
        }

    def _distance(
        self,
        foreground: Float[Tensor, " channels"],
        background: Float[Tensor, " channels"],
        all_foreground: Float[Tensor, " channels"],
        all_background: Float[Tensor, " channels"],
    ) -> Float[Tensor, ""]:
        """FedProto: the mean over classes of the mean square over channels of the difference."""
        return (
            functional.mse_loss(foreground, all_foreground)
            + functional.mse_loss(background, all_background)
        ) / 2


class AttractingPull(PrototypePull):
    """FedBCS, as we read it: the foreground alone is drawn to everybody's foreground, by its mean
    square difference and by

        −log( e^{cos(F, F̄)/τ} / (e^{cos(F, F̄)/τ} + e^{cos(F, B̄)/τ}) )
    """

    def _distance(
        self,
        foreground: Float[Tensor, " channels"],
        background: Float[Tensor, " channels"],
        all_foreground: Float[Tensor, " channels"],
        all_background: Float[Tensor, " channels"],
    ) -> Float[Tensor, ""]:
        cosines = torch.stack(
            [
                functional.cosine_similarity(foreground, other, dim=0)
                for other in (all_foreground, all_background)
            ]
        )
        contrast = -functional.log_softmax(cosines / TEMPERATURE, dim=0)[0]
        return functional.mse_loss(foreground, all_foreground) + contrast


class ClassPrototypes(Trainer):
    """`fedproto`: federated averaging, and the last decoder's two class prototypes once a round.

    Source: Tan et al. 2022, arXiv:2105.00243, Algorithm 1: a site's prototype of a class is a mean
    over its images, everybody's the mean over sites by images, and the local loss gains λ times the
    distance to it. Departures: weights are averaged as well (the source has other networks at every
    site and sends prototypes alone); a class is the foreground or background of an image; the means
    are over the batches of the round, and so over the weights as they change.
    """

    defaults: ClassVar[Mapping[str, float]] = {"weight": 0.1}
    pull: ClassVar[type[PrototypePull]] = PrototypePull

    def _made(self) -> None:
        self.prototypes: dict[str, Pair] = {}
        self._pulls: dict[str, PrototypePull] = {}

    def _taps(self) -> tuple[str, ...]:
        return self.network.tap_names[-1:]

    def _extra_loss(self, site: str) -> AuxiliaryLoss | None:
        channels = {tap: self.network.tap_channels[tap] for tap in self._taps()}
        self._pulls[site] = self.pull(
            channels, weight=self.parameters["weight"], towards=self.prototypes
        )
        return self._pulls[site]

    def _averaged(self, number: int) -> None:
        means = {site: pull.means for site, pull in self._pulls.items()}
        for tap in self._taps():
            shares = {site: self.shares[site] for site in means if tap in means[site]}
            if not shares:
                continue
            whole = sum(shares.values())
            self.prototypes[tap] = tuple(  # type: ignore[assignment]  # a pair stays a pair
                torch.stack([shares[s] / whole * means[s][tap][place] for s in shares]).sum(0)
                for place in (0, 1)
            )

    def _extra_bytes(self) -> int:
        return sum(tensor.nbytes for pair in self.prototypes.values() for tensor in pair)

    def _own_state(self) -> dict[str, Tensor]:
        return {
            f"{tap}/{place}": tensor
            for tap, pair in self.prototypes.items()
            for place, tensor in enumerate(pair)
        }

    def _take_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.prototypes = {
            tap: (tensors[f"{tap}/0"].to(self.device), tensors[f"{tap}/1"].to(self.device))
            for tap in self._taps()
            if f"{tap}/0" in tensors
        }


class MultiLevelPrototypes(ClassPrototypes):
    """`fedbcs`: prototypes of every tap, attracting, everybody's without a gradient, once a round.

    Our reading of FedBCS (AAAI 2026; a description of it was at hand, its code and tables were
    not): class means gathered over the batches of a round, encoder and decoder levels,
    InfoNCE and mean square against detached prototypes of all sites, the background left out of the
    loss. Departures: levels are taken one by one, where the source fuses those of the encoder and
    those of the decoder; the prototypes of all sites are averaged, where the source clusters them
    (FINCH, which puts two sites into one cluster, so that with two sites this is the same).
    """

    pull: ClassVar[type[PrototypePull]] = AttractingPull

    def _taps(self) -> tuple[str, ...]:
        return self.network.tap_names

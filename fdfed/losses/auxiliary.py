"""Losses on a network's taps that are added to L_seg from the first round on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fdfed.errors import InvalidInput
from fdfed.losses.contrastive import PixelContrast
from fdfed.losses.deep_supervision import (
    INITIAL_WEIGHT,
    DeepSupervision,
    deep_supervision_loss,
    supervision_weight,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a loss is computed, and what it may draw from."""

    step: int
    """Steps of this site before this one, in all rounds."""
    steps: int
    """Steps of the whole run."""
    generator: torch.Generator
    """On the CPU, seeded by the run and the step: a step that is repeated draws the same."""


class AuxiliaryLoss(nn.Module, ABC):
    """λ L_aux, to be added to L_seg; its heads are trained along with the network.

    The heads serve training alone. They begin alike at all sites, from the run's seed, and then
    stay at each: they are never exchanged, averaged or written into a model file. A site keeps
    them from round to round beside its optimiser state.

    A subclass makes its heads in the constructor, from torch's global generator and nowhere else,
    and gives `_loss`. It holds no other state that changes.
    """

    default_weight: ClassVar[float]
    """λ where the plan gives none."""

    def __init__(self, tap_channels: Mapping[str, int], *, weight: float | None = None) -> None:
        """See the class.

        Args:
            tap_channels: C_l by tap, of the network that it is for.
            weight: λ; None is the loss's own.

        Raises:
            InvalidInput: if the weight is negative.
        """
        super().__init__()
        if weight is not None and weight < 0:
            raise InvalidInput(f"auxiliary_weight is {weight}; give 0 or more")
        self.tap_channels = dict(tap_channels)
        self.weight = self.default_weight if weight is None else weight

    def forward(
        self, taps: Mapping[str, Tensor], mask: Float[Tensor, "batch 1 height width"], when: Moment
    ) -> Float[Tensor, ""]:
        """λ L_aux of one batch, connected to the graph.

        Args:
            taps: feature maps `(batch, C_l, h_l, w_l)` by tap; carry the gradient.
            mask: of the full image, 1 = foreground.
        """
        return self._loss(taps, mask, when)

    @abstractmethod
    def _loss(self, taps: Mapping[str, Tensor], mask: Tensor, when: Moment) -> Tensor:
        """As `forward`."""


class PixelContrastLoss(AuxiliaryLoss):
    """`con`: λ times the mean over all taps of the supervised contrastive loss of drawn cells.

    Source: Khosla et al. 2020, Eq. 2, on up to 256 cells of each class; λ = 0.1 as in Chaitanya et
    al. 2020 for their auxiliary terms. See `fdfed.losses.supervised_pixel_loss`.
    """

    default_weight: ClassVar[float] = 0.1

    def __init__(self, tap_channels: Mapping[str, int], *, weight: float | None = None) -> None:
        super().__init__(tap_channels, weight=weight)
        self.contrast = PixelContrast(tap_channels)

    def _loss(self, taps: Mapping[str, Tensor], mask: Tensor, when: Moment) -> Tensor:
        loss: Tensor = self.contrast(taps, mask, when.generator)
        return self.weight * loss


class DeepSupervisionLoss(AuxiliaryLoss):
    """`deeps`: η(t) Σ_d BCE_d over the decoder taps d; η falls linearly to zero over the run.

    Source: Dou et al. 2016; see `fdfed.losses.deep_supervision_loss`. λ is η at the start.
    """

    default_weight: ClassVar[float] = INITIAL_WEIGHT

    def __init__(self, tap_channels: Mapping[str, int], *, weight: float | None = None) -> None:
        super().__init__(tap_channels, weight=weight)
        self.supervision = DeepSupervision(tap_channels)

    def _loss(self, taps: Mapping[str, Tensor], mask: Tensor, when: Moment) -> Tensor:
        weight = supervision_weight(when.step, when.steps, initial=self.weight)
        return deep_supervision_loss(self.supervision(taps), mask, weight=weight)

"""SCAFFOLD: gradients corrected by what the site's own usually differ from everybody's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fdfed.studies.trainers.loop import Trainer
from fdfed.training.local_round import CorrectGradients


class Scaffold(Trainer):
    """Local steps with g − c_s + c, c = Σ_s w_s c_s, w_s = n_s / N.

    After a round c_s is the mean of the site's uncorrected gradients over the round's steps.
    Source: Karimireddy et al. 2020, arXiv:1910.06378, Algorithm 1, with the server's rate 1. For
    SGD that mean is their option II, c_s − c + (x − y_s) / (K η), exactly; said as a mean of
    gradients it has a meaning for AdamW too, with which the other methods are trained. Departure:
    sites weigh by their images, in c as in the average of the weights.
    """

    def _made(self) -> None:
        self.controls: dict[str, list[Tensor]] = {site: self._zeros() for site in self.sites}
        self.control: list[Tensor] = self._zeros()
        self._sums: dict[str, list[Tensor]] = {}

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(parameter) for parameter in self.network.parameters()]

    def _corrector(self, site: str) -> CorrectGradients:
        sums = self._sums[site] = self._zeros()
        shifts = [c - own for c, own in zip(self.control, self.controls[site], strict=True)]

        def correct_(network: nn.Module) -> None:
            for parameter, total, shift in zip(network.parameters(), sums, shifts, strict=True):
                if parameter.grad is not None:
                    total.add_(parameter.grad)
                    parameter.grad.add_(shift)

        return correct_

    def _averaged(self, number: int) -> None:
        steps, shares = self.plan.steps_per_round, self.shares
        self.controls = {site: [s / steps for s in sums] for site, sums in self._sums.items()}
        rows = [[share * c for c in self.controls[site]] for site, share in shares.items()]
        self.control = [torch.stack(column).sum(0) for column in zip(*rows, strict=True)]

    def _extra_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.control)

    def _own_state(self) -> dict[str, Tensor]:
        return {
            f"{site}/{place}": tensor
            for site, tensors in self.controls.items()
            for place, tensor in enumerate(tensors)
        }

    def _take_state(self, tensors: Mapping[str, Tensor]) -> None:
        places = range(len(self.control))
        self.controls = {
            site: [tensors[f"{site}/{p}"].to(self.device) for p in places] for site in self.sites
        }
        rows = [[share * c for c in self.controls[site]] for site, share in self.shares.items()]
        self.control = [torch.stack(column).sum(0) for column in zip(*rows, strict=True)]

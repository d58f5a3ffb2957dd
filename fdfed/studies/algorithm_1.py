"""The paper's Algorithm 1 as it stands: all images in one place, pairs of single images.

A reference for the federated method, which exchanges batch means and never sees two hospitals'
images together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.data import SiteData, pool_sites
from fdfed.evaluation.aggregates import aggregate as aggregate_scores
from fdfed.evaluation.metrics import image_scores
from fdfed.evaluation.results import RoundRecord, SiteRound
from fdfed.evaluation.whole_image import whole_image_logits
from fdfed.files.atomic_file import replacing, write_text
from fdfed.layer_weights import aggregate, propose, starting_alpha, target_of
from fdfed.losses import segmentation_loss
from fdfed.losses.published import algorithm_1_discrepancy, algorithm_1_exchange
from fdfed.networks import SegmentationNetwork
from fdfed.prototypes import masked_prototypes
from fdfed.training.initialise import initial_network
from fdfed.training.local_round import (
    dump_optimizer,
    load_optimizer_,
    make_optimizer,
    set_learning_rate_,
)
from fdfed.training.precision import autocast

_STATE: Final = "rounds.json"
_OPTIMIZER: Final = "optimizer."
_ONE: Final = np.ones(1)


def algorithm_1_terms(
    network: SegmentationNetwork, image: Tensor, mask: Tensor, *, plan: RunPlan
) -> tuple[Tensor, Float[Tensor, " taps"]]:
    """L_seg of a batch, and L_fd + L_exch of every tap by Algorithm 1, lines 4 and 5.

    Image i is set against itself and against image i + 1 of the batch, whichever site each is
    from. Departures: ε of the plan inside the logarithm, and images without foreground or without
    background cells at a tap are left out; a tap with fewer than two images left gives NaN.
    """
    with autocast(plan.precision, image.device):
        logits, taps = network.forward_with_taps(image)
    terms = []
    for features in taps.values():
        foreground, background, valid = masked_prototypes(
            features,
            mask,
            pooling=plan.method.pooling,
            mask_pooling=plan.method.mask_pooling,
        )
        F, B = foreground[valid], background[valid]
        if len(F) < 2:
            terms.append(foreground.new_full((), torch.nan))
            continue
        eps = plan.method.eps
        terms.append(algorithm_1_discrepancy(F, B, eps=eps) + algorithm_1_exchange(F, B, eps=eps))
    return segmentation_loss(logits, mask), torch.stack(terms)


def train_algorithm_1(
    plan: RunPlan,
    sites: Mapping[str, SiteData],
    folder: Path,
    *,
    device: torch.device | None = None,
) -> tuple[RoundRecord, ...]:
    """Trains on the pooled images with the plan's phases, α rule and budget; the record of every
    round, with the validation Dice of each site.

    The steps of a round are those of all sites together, as in the simulation's `pooled`. Phase 2
    starts as the plan says (`phase_2_start`). What is done is kept in `folder` after every round,
    and is where a later call goes on.
    """
    run = _Run(plan, sites, folder, device or torch.device("cpu"))
    while len(run.history) < plan.rounds:
        run.round()
    return tuple(run.history)


@dataclass(frozen=True, slots=True)
class _Alpha:
    """α by tap, and the target of its dual update."""

    values: NDArray[np.float64]
    target: NDArray[np.float64] | None = None


class _Run:
    """One run of `train_algorithm_1`: its network, optimiser, α and history."""

    def __init__(
        self, plan: RunPlan, sites: Mapping[str, SiteData], folder: Path, device: torch.device
    ) -> None:
        self._plan = plan
        self._sites = sites
        self._pooled = pool_sites(list(sites.values()))
        self._folder = folder
        self._device = device
        self._network = initial_network(plan).to(device)
        # As at a site: convolutions are faster on channels-last memory; torch's stubs lack it.
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = make_optimizer(self._network, plan)
        self._alpha = _Alpha(np.zeros(len(self._network.tap_names)))
        self._best: tuple[int, float] = (0, -1.0)
        self.history: list[RoundRecord] = []
        if (folder / _STATE).exists():
            self._restore()

    def round(self) -> None:
        """Trains, validates and keeps one round."""
        server_round, began = len(self.history) + 1, time.perf_counter()
        used = self._alpha.values
        losses = self._train(server_round)
        if losses is not None:
            self._move_alpha(server_round, losses)
        dice = self._validate() if self._plan.is_evaluated(server_round) else {}
        entries = {site: SiteRound(val_dice=dice.get(site)) for site in self._sites}
        record = RoundRecord(
            round=server_round,
            phase=self._plan.phase(server_round),
            sites=entries,
            alpha=dict(zip(self._network.tap_names, used.tolist(), strict=True)),
            seconds=time.perf_counter() - began,
        )
        score = record.mean_val_dice
        if score is not None and score >= self._best[1]:
            self._best = (server_round, score)
        self.history.append(record)
        self._keep(server_round)
        if server_round == self._plan.phase_1_rounds < self._plan.rounds:
            self._begin_phase_2()

    def _train(self, server_round: int) -> NDArray[np.float64] | None:
        """One round's steps; the mean of each tap's loss, None in phase 1."""
        plan, first = self._plan, self._plan.phase(server_round) == 1
        steps = plan.steps_per_round * len(self._sites)
        start = (server_round - 1) * steps
        weights = torch.from_numpy(self._alpha.values).float().to(self._device)
        seen: list[Tensor] = []
        self._network.train()
        set_learning_rate_(self._optimizer, plan, server_round)
        for step in range(start, start + steps):
            image, mask = (t.to(self._device) for t in self._pooled.training_batch(step))
            self._optimizer.zero_grad(set_to_none=True)
            if first:
                with autocast(plan.precision, image.device):
                    logits = self._network(image)
                objective = segmentation_loss(logits, mask)
            else:
                seg, terms = algorithm_1_terms(self._network, image, mask, plan=plan)
                active = (weights > 0) & ~terms.isnan()
                # where, not a product alone: NaN · 0 is NaN.
                objective = seg + (weights * terms.where(active, 0)).sum()
                seen.append(terms.detach())
            objective.backward()
            self._optimizer.step()
        return torch.stack(seen).double().nanmean(0).cpu().numpy() if seen else None

    def _move_alpha(self, server_round: int, losses: NDArray[np.float64]) -> None:
        plan, phase_1 = self._plan.alpha, self._plan.phase_1_rounds
        proposal = propose(self._alpha.values, losses, self._alpha.target, plan=plan)
        values = aggregate(
            proposal[None],
            _ONE,
            plan=plan,
            phase_2_round=server_round - phase_1,
            phase_2_rounds=self._plan.rounds - phase_1,
        )
        target = self._alpha.target
        if target is None:
            target = target_of(losses[None], _ONE, margin=plan.margin)
        self._alpha = _Alpha(values, target)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        self._network.eval()
        found = {}
        for name, site in self._sites.items():
            scores: list[float] = []
            for image, mask, names in site.evaluation_batches("validation"):
                with autocast(self._plan.precision, self._device):
                    logits = whole_image_logits(self._network, image.to(self._device))
                scores += [entry.dice for entry in image_scores(logits.float(), mask, names)]
            mean = aggregate_scores(scores, min_count=1)
            if mean is not None:
                found[name] = mean.mean
        return found

    def _begin_phase_2(self) -> None:
        if self._plan.phase_2_start == "best":
            self._network.load_state_dict(load_file(self._file("best", self._best[0])))
            self._optimizer = make_optimizer(self._network, self._plan)
        rounds = self._plan.rounds - self._plan.phase_1_rounds
        taps = len(self._network.tap_names)
        self._alpha = _Alpha(starting_alpha(taps, plan=self._plan.alpha, phase_2_rounds=rounds))

    def _keep(self, server_round: int) -> None:
        """Writes the round; `rounds.json` is replaced last and names the files that count."""
        weights = {n: t.clone() for n, t in self._network.state_dict().items()}
        if self._best[0] == server_round:
            self._save(self._file("best", server_round), weights)
        optimizer = {f"{_OPTIMIZER}{n}": t for n, t in dump_optimizer(self._optimizer).items()}
        self._save(self._file("round", server_round), weights | optimizer)
        target = self._alpha.target
        document: dict[str, Any] = {
            "alpha": self._alpha.values.tolist(),
            "target": None if target is None else target.tolist(),
            "best": list(self._best),
            "history": [
                {
                    "dice": {site: entry.val_dice for site, entry in record.sites.items()},
                    "alpha": dict(record.alpha),
                    "seconds": record.seconds,
                }
                for record in self.history
            ],
        }
        write_text(self._folder / _STATE, json.dumps(document))
        current = {self._file("round", server_round), self._file("best", self._best[0])}
        for path in set(self._folder.glob("*.safetensors")) - current:
            path.unlink()

    def _restore(self) -> None:
        document = json.loads((self._folder / _STATE).read_text(encoding="utf-8"))
        self.history = [
            RoundRecord(
                round=number,
                phase=self._plan.phase(number),
                sites={s: SiteRound(val_dice=dice) for s, dice in entry["dice"].items()},
                alpha=entry["alpha"],
                seconds=entry["seconds"],
            )
            for number, entry in enumerate(document["history"], start=1)
        ]
        self._best = (int(document["best"][0]), float(document["best"][1]))
        done = len(self.history)
        tensors = load_file(self._file("round", done))
        optimizer = {
            name.removeprefix(_OPTIMIZER): tensors.pop(name)
            for name in list(tensors)
            if name.startswith(_OPTIMIZER)
        }
        self._network.load_state_dict(tensors)
        load_optimizer_(self._optimizer, optimizer)
        target = document["target"]
        self._alpha = _Alpha(
            np.array(document["alpha"]), None if target is None else np.array(target)
        )
        if done == self._plan.phase_1_rounds < self._plan.rounds:
            self._begin_phase_2()

    def _file(self, kind: str, server_round: int) -> Path:
        return self._folder / f"{kind}-{server_round:06d}.safetensors"

    @staticmethod
    def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
        with replacing(path) as part:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)

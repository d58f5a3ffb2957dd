"""The models that membership inference attacks, and what the coordinator saw of their training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fdfed.data.seeds import generator
from fdfed.networks import SegmentationNetwork
from fdfed.privacy.accounting import Release, derived_delta, epsilon_of
from fdfed.studies.privacy.observed import flat, gradient_of
from fdfed.studies.privacy.setting import Images, Setting
from fdfed.training.initialise import initial_network
from fdfed.training.local_round import LocalRound, train_round_


@dataclass(frozen=True, slots=True)
class Hospital:
    """The images of one site as the training round asks for them."""

    images: Images
    batch_size: int
    seed: int
    augment: bool = False

    def training_batch(
        self, global_step: int
    ) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n 1 h w"]]:
        """The next images of a shuffled order that is new in every epoch."""
        chosen = self.images.take(self._chosen(global_step))
        if self.augment and generator("flip", self.seed, global_step).integers(2):
            return chosen.image.flip(-1), chosen.mask.flip(-1)
        return chosen.image, chosen.mask

    def training_patients(self, global_step: int) -> tuple[str, ...]:
        """Whose they are."""
        return self.images.take(self._chosen(global_step)).patients

    def _chosen(self, step: int) -> list[int]:
        n = len(self.images)
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        orders: dict[int, NDArray[np.intp]] = {}
        for place in places:
            epoch = place // n
            if epoch not in orders:
                orders[epoch] = generator("epoch", self.seed, epoch).permutation(n)
        return [int(orders[place // n][place % n]) for place in places]


@dataclass(slots=True)
class Watched:
    """What the coordinator has of the rounds that it attacks."""

    before: list[SegmentationNetwork] = field(default_factory=list)
    """The common model as the round began."""
    updates: list[list[NDArray[np.float32]]] = field(default_factory=list)
    """By round and site: weights after less before, (P,)."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The common model at the end, what was watched, and the ε that was spent (DP-SGD alone)."""

    network: SegmentationNetwork
    watched: Watched
    epsilon: float | None = None


def hospitals_of(setting: Setting, members: Images, *, augment: bool) -> list[Hospital]:
    """The members in `shares` parts of nearly equal size, whole patients each."""
    parts: list[list[int]] = [[] for _ in range(setting.shares)]
    for patient in dict.fromkeys(members.patients):
        rows = [i for i, name in enumerate(members.patients) if name == patient]
        min(parts, key=len).extend(rows)
    return [
        Hospital(members.take(part), setting.plan.batch_size, setting.seed + k, augment)
        for k, part in enumerate(parts)
    ]


def train_federated(setting: Setting, members: Images, *, augment: bool, rounds: int) -> Trained:
    """Federated averaging by the library's own local rounds."""
    plan, watched = setting.plan, Watched()
    network = initial_network(plan)
    hospitals = hospitals_of(setting, members, augment=augment)
    states: list[Mapping[str, Tensor] | None] = [None] * len(hospitals)
    for server_round in range(1, rounds + 1):
        updates = []
        before = copy.deepcopy(network)
        for k, hospital in enumerate(hospitals):
            local = copy.deepcopy(before)
            request = LocalRound(
                plan=plan, run_id="privacy", server_round=server_round, attempt=1, alpha=None
            )
            state = states[k]
            outcome = train_round_(
                local, hospital, request, optimizer_state=None if state is None else dict(state)
            )
            states[k] = outcome.optimizer_state
            updates.append(_difference(local, before))
        _apply_(network, np.mean(updates, axis=0))
        if server_round in watched_rounds(setting, rounds):
            watched.before.append(before)
            watched.updates.append(updates)
    return Trained(network.eval(), watched)


def watched_rounds(setting: Setting, rounds: int) -> tuple[int, ...]:
    """The rounds that are attacked: evenly spread, the last among them."""
    count = min(setting.watched, rounds)
    return tuple(round(rounds * (k + 1) / count) for k in range(count))


NOISE: Final = 1.0
"""σ of DP-SGD in the study."""
CLIP: Final = 1.0
"""C: the largest norm of one image's gradient."""


def train_with_dp(setting: Setting, members: Images, *, steps: int, rate: float = 0.05) -> Trained:
    """Federated DP-SGD by its definition, a step a round at every site.

        u_s = -η/n̄ (Σ_{i in B} clip_C(∇L_i) + N(0, σ² C² I)),   B drawn by Poisson sampling

    Source: Abadi et al. 2016, arXiv:1607.00133, Algorithm 1; n̄ is the expected batch, which is
    public. Images are the unit. For an attack study alone: the noise is torch's, not of a secure
    source, and sampling follows the seed.

    Args:
        steps: of each site; a step is a round here.
        rate: η of the sum over sites.
    """
    plan, watched = setting.plan, Watched()
    network = initial_network(plan)
    hospitals = hospitals_of(setting, members, augment=False)
    chance = generator("dp", setting.seed)
    noise = torch.Generator().manual_seed(setting.seed)
    for step in range(1, steps + 1):
        updates = []
        for hospital in hospitals:
            q = min(1.0, plan.batch_size / len(hospital.images))
            chosen = np.flatnonzero(chance.random(len(hospital.images)) < q).tolist()
            total = clipped_sum(network, hospital.images.take(chosen))
            total += NOISE * CLIP * torch.randn(len(total), generator=noise).numpy()
            updates.append(-rate / plan.batch_size * total)
        if step in watched_rounds(setting, steps):
            watched.before.append(copy.deepcopy(network))
            watched.updates.append(updates)
        _apply_(network, np.mean(updates, axis=0))
    smallest = min(len(hospital.images) for hospital in hospitals)
    rate_of_smallest = min(1.0, plan.batch_size / smallest)
    spent = Release(noise_multiplier=NOISE, sample_rate=rate_of_smallest, steps=steps)
    return Trained(network.eval(), watched, epsilon_of([spent], delta=derived_delta(smallest)))


def clipped_sum(network: SegmentationNetwork, images: Images) -> NDArray[np.float32]:
    """Σ_i ∇L_i · min(1, C / |∇L_i|), (P,), over single images; zeros for none."""
    total = np.zeros(sum(p.numel() for p in network.parameters()), np.float32)
    for image, mask in zip(images.image, images.mask, strict=True):
        gradient = flat(gradient_of(network, image[None], mask[None]))
        total = total + gradient * min(1.0, CLIP / float(np.linalg.norm(gradient)))
    return total


def gradients_of(network: SegmentationNetwork, candidates: Images) -> NDArray[np.float32]:
    """∇L_seg of every image by itself, (n, P)."""
    rows = zip(candidates.image, candidates.mask, strict=True)
    return np.stack([flat(gradient_of(network, x[None], y[None])) for x, y in rows])


def _difference(after: SegmentationNetwork, before: SegmentationNetwork) -> NDArray[np.float32]:
    return flat(list(after.parameters())) - flat(list(before.parameters()))


@torch.no_grad()
def _apply_(network: SegmentationNetwork, update: Sequence[float] | NDArray[np.float32]) -> None:
    vector = torch.from_numpy(np.asarray(update, np.float32))
    start = 0
    for parameter in network.parameters():
        parameter.add_(vector[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()

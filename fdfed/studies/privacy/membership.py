"""Membership inference: was this image among those that were trained on?

The attacker has the candidate, its mask and the common model. A score is higher for members.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from fdfed.losses import segmentation_loss
from fdfed.networks import SegmentationNetwork
from fdfed.studies.privacy.setting import Images
from fdfed.studies.privacy.vectors import Array

SUCCESS: Final = 0.8
"""AUC from which an attack counts, reached without a defence against an overfit model."""


@torch.no_grad()
def loss_scores(network: SegmentationNetwork, candidates: Images) -> Array:
    """-L_seg of each candidate (n,), under the final model: members are fitted better.

    Source: Yeom et al. 2018, arXiv:1709.01604, section 3.1.
    """
    logits = network(candidates.image)
    rows = zip(logits, candidates.mask, strict=True)
    return np.array([-float(segmentation_loss(z[None], y[None])) for z, y in rows])


def update_scores(
    updates: Sequence[NDArray[np.float32]], gradients: Sequence[NDArray[np.float32]]
) -> Array:
    """The mean over rounds of cos(update, -gradient) of each candidate (n,): an update points
    where the loss of its own images falls.

    Source: Li, Li & Ribeiro, ICLR 2023 (passive attacks on federated learning), who compare both
    by their angle too.

    Args:
        updates: of each round, weights after less before, (P,).
        gradients: of each round, ∇L_seg of every candidate at the weights before, (n, P).
    """
    per_round = []
    for update, gradient in zip(updates, gradients, strict=True):
        lengths = np.linalg.norm(gradient, axis=1) * np.linalg.norm(update)
        per_round.append(-(gradient @ update) / np.maximum(lengths, 1e-12))
    mean: Array = np.mean(per_round, axis=0, dtype=np.float64)
    return mean


def release_scores(released: Array, candidates: Array, proxies: Array) -> Array:
    """How much the nearest release looks like each candidate (n,): the largest cosine over the
    releases (m, d), all centred and scaled by the proxies (k, d).

    Source: Homer et al. 2008, doi:10.1371/journal.pgen.1000167, who find a person's genome in a
    mean of many by what it shares with the mean beyond what everybody shares.
    """
    centre, spread = proxies.mean(0), proxies.std(0)
    scale = spread + 1e-3 * float(spread.max()) + 1e-12
    first, second = ((part - centre) / scale for part in (released, candidates))
    first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)
    second /= np.maximum(np.linalg.norm(second, axis=1, keepdims=True), 1e-12)
    nearest: Array = (second @ first.T).max(axis=1)
    return nearest

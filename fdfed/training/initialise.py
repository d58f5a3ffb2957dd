"""The network that a plan names, with the weights that its seed gives.

Coordinator and sites call this alike: tensors that never travel (FedBN) then start equal too.
"""

from __future__ import annotations

import threading

import torch

from fdfed.config import RunPlan
from fdfed.losses import AuxiliaryLoss, create_auxiliary_loss
from fdfed.networks import SegmentationNetwork, create_network

_GLOBAL_GENERATOR = threading.Lock()
"""Constructors draw from torch's global generator; two sites simulated in one process share it."""


def initial_network(plan: RunPlan) -> SegmentationNetwork:
    """A network on the CPU, in the plan's precision, that depends on `plan` alone.

    The global random state is left as it was found.
    """
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        network = create_network(
            plan.network,
            in_channels=plan.in_channels,
            width=plan.width,
            norm=plan.norm,
            size=plan.input_size,
        )
    return network.double() if plan.precision == "fp64" else network


def initial_auxiliary(plan: RunPlan, network: SegmentationNetwork) -> AuxiliaryLoss | None:
    """The plan's auxiliary loss, with heads that its seed gives, where `network` computes; None if
    the plan has none.

    The global random state is left as it was found.
    """
    if plan.auxiliary_loss is None:
        return None
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        auxiliary = create_auxiliary_loss(
            plan.auxiliary_loss, network.tap_channels, weight=plan.auxiliary_weight
        )
    return auxiliary.to(next(network.parameters()))

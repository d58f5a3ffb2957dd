"""Which tensors of a network travel, and how they enter and leave it.

Coordinator and site both call `shared_names`, so that they cannot disagree on the list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fdfed.errors import InvalidInput, WireError
from fdfed.strategies import create_strategy


def shared_names(network: nn.Module, strategy: str) -> tuple[str, ...]:
    """Names of the tensors that the strategy exchanges, in the order of the state dict.

    Raises:
        InvalidInput: if the strategy is not installed, or shares nothing and is not `local`, whose
            sites are known to have no common model.
    """
    names = create_strategy(strategy).shared_names(network)
    if not names and strategy != "local":
        raise InvalidInput(
            f"strategy = {strategy} keeps all tensors at the sites; use strategy = local for that"
        )
    return names


def local_names(network: nn.Module, strategy: str) -> tuple[str, ...]:
    """Names of the tensors that stay at each site: all others."""
    shared = set(shared_names(network, strategy))
    return tuple(name for name in network.state_dict() if name not in shared)


def take_tensors(network: nn.Module, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Copies of the named tensors on the CPU, as arrays."""
    state = network.state_dict()
    return {name: state[name].detach().cpu().numpy().copy() for name in names}


def put_tensors_(network: nn.Module, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Writes `tensors` into the network in place, one at a time.

    Raises:
        WireError: if a name is unknown, or a shape or dtype differs from the network's.
    """
    state = network.state_dict()
    for name, value in tensors.items():
        if name not in state:
            raise WireError(f"the tensor {name!r} is not one of this network's")
        own = state[name]
        if tuple(own.shape) != value.shape or _numpy_dtype(own) != value.dtype:
            raise WireError(
                f"the tensor {name!r} is {value.dtype} {value.shape}; this network has "
                f"{_numpy_dtype(own)} {tuple(own.shape)}. Do both sides run the same plan?"
            )
        with torch.no_grad():
            own.copy_(torch.from_numpy(np.require(value, requirements="W")))


def _numpy_dtype(tensor: Tensor) -> np.dtype[Any]:
    return torch.empty(0, dtype=tensor.dtype).numpy().dtype

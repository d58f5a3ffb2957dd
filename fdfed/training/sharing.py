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
from torch.nn.modules.batchnorm import _NormBase

from fdfed.config import StrategyName
from fdfed.errors import WireError


def shared_names(network: nn.Module, strategy: StrategyName) -> tuple[str, ...]:
    """Names of the tensors that the strategy exchanges, in the order of the state dict.

    `local` shares none. `fedbn` keeps every tensor of a batch normalisation at the site (Li et al.
    2021, arXiv:2102.07623, which keeps scale, shift and running statistics). All others share all.
    """
    names = tuple(network.state_dict())
    if strategy == "local":
        return ()
    if strategy != "fedbn":
        return names
    kept = tuple(
        f"{prefix}." for prefix, module in network.named_modules() if isinstance(module, _NormBase)
    )
    return tuple(name for name in names if not name.startswith(kept))


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

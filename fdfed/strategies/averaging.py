"""Federated averaging, and the two things in which a strategy may differ from it.

Both sides make the strategy from its name. It decides which tensors travel, where they must agree,
and the coordinator asks it for the next common weights. It sees the sites' weights as their mean
alone: one site's weights are checked before they enter, and may be hidden from the coordinator.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fdfed.errors import InvalidInput

Arrays = Mapping[str, NDArray[Any]]
"""Tensors by name, on the CPU."""


class Averaging:
    """All tensors travel, and the mean over sites, weighted by training images, comes next.

    Source: McMahan et al. 2017, arXiv:1602.05629, Algorithm 1. A strategy is a subclass that keeps
    some tensors at the sites (`_kept`), or goes elsewhere than to the mean (`_advance`), or both.
    Its constructor takes nothing, and it holds nothing that changes: what one round hands to the
    next is in `memory`, which is saved with the weights, so that a run that goes on after a crash
    ends as one that was never stopped.
    """

    def shared_names(self, network: nn.Module) -> tuple[str, ...]:
        """Names of the tensors that travel, in the order of the network's state dict.

        Raises:
            InvalidInput: if the strategy keeps a tensor that the network does not have.
        """
        names = tuple(network.state_dict())
        kept = frozenset(self._kept(network))
        odd = sorted(kept - set(names))
        if odd:
            raise InvalidInput(
                f"the strategy {type(self).__name__} keeps {', '.join(odd[:5])} at the sites, and "
                "the network has no such tensors; name entries of its state dict"
            )
        return tuple(name for name in names if name not in kept)

    def advance(
        self, before: Arrays, mean: Arrays, memory: Arrays
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """The next common tensors and the next memory.

        Args:
            before: the common tensors that the sites started the round from.
            mean: Σ_s n_s W_s / Σ_s n_s over the sites whose update was accepted.
            memory: what this returned a round earlier; empty in the first round of a phase.

        Raises:
            InvalidInput: if the strategy's answer is not of the model's names, shapes and types,
                or not finite.
        """
        weights, kept = self._advance(before, mean, memory)
        for name in sorted(set(before) | set(weights)):
            self._check(name, before.get(name), weights.get(name))
        for name, value in kept.items():
            self._check(name, value if isinstance(value, np.ndarray) else None, value)
        return {name: weights[name] for name in before}, dict(kept)

    def _kept(self, network: nn.Module) -> Collection[str]:
        """Names of the tensors that stay at each site, which starts them alike and trains them."""
        return ()

    def _advance(self, before: Arrays, mean: Arrays, memory: Arrays) -> tuple[Arrays, Arrays]:
        """As `advance`; new arrays, or those of `mean`. Nothing of the arguments is changed."""
        return mean, {}

    def _check(self, name: str, expected: NDArray[Any] | None, value: object) -> None:
        own = "nothing" if expected is None else f"{expected.dtype} {expected.shape}"
        if not isinstance(value, np.ndarray):
            found = "nothing" if value is None else type(value).__name__
        elif expected is None or (value.shape, value.dtype) != (expected.shape, expected.dtype):
            found = f"{value.dtype} {value.shape}"
        elif value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            found = "something other than finite numbers"
        else:
            return
        raise InvalidInput(
            f"the strategy {type(self).__name__} made {found} of the tensor {name!r}, where the "
            f"model has {own}; correct its _advance"
        )


class Local(Averaging):
    """`local`: every site keeps a model of its own."""

    def _kept(self, network: nn.Module) -> Collection[str]:
        return tuple(network.state_dict())


_NORMALISATIONS: Final = (_NormBase, nn.GroupNorm, nn.LayerNorm)


class LocalNormalisation(Averaging):
    """`fedbn`: every tensor of a normalisation stays at the site.

    Source: Li et al. 2021, arXiv:2102.07623, which keeps scale, shift and running statistics of
    BatchNorm. Of GroupNorm and LayerNorm, which the source does not have, scale and shift stay.
    """

    def _kept(self, network: nn.Module) -> Collection[str]:
        norms = tuple(
            f"{prefix}."
            for prefix, module in network.named_modules()
            if isinstance(module, _NORMALISATIONS)
        )
        return tuple(name for name in network.state_dict() if name.startswith(norms))

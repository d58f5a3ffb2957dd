"""A site's update as the change of its trained weights, in half precision with error feedback.

    u_k = W_k − G_k + e_{k−1},     q_k = Q(u_k) is sent,     e_k = u_k − q_k stays at the site

G_k are the weights that the site was sent in round k and W_k what its training made of them; Q
rounds to the nearest number of fp16 or bf16, ties to even, and e_0 = 0. The coordinator takes
G_k + q_k for W_k. What was sent in any number of rounds then differs from what was trained by the
last e alone:

    Σ_k q_k = Σ_k (W_k − G_k) − e_K

Source: Karimireddy et al. 2019, arXiv:1901.09847, Algorithm 2, with Q for the compressor and a
round's change for the scaled gradient. Departure: a round whose answer never enters the average
takes the e that was in it along, since the site does not know what became of its answer.

u is computed in fp32, so that the sums agree to its rounding; u − q is exact there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fdfed.errors import InvalidInput, WireError
from fdfed.wire.weights import Blockwise, Weights

HalfPrecision = Literal["fp16", "bf16"]

_TORCH: Final = {"fp16": torch.float16, "bf16": torch.bfloat16}
_SENT: Final = {"fp16": np.dtype(np.float16), "bf16": np.dtype(np.uint16)}
"""How each travels: NumPy has no bf16, whose bits are sent as integers."""
_HALVED: Final = np.dtype(np.float32)


def changes_of(
    weights: Mapping[str, NDArray[Any]],
    reference: Mapping[str, NDArray[Any]],
    residual: Mapping[str, NDArray[np.float32]],
    *,
    trained: Collection[str],
    precision: HalfPrecision,
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.float32]]]:
    """What is sent for `weights`, q for every trained tensor of fp32 and all others as they are;
    and the new residual e of those.

    Running statistics and counters are few, and a variance near 0 must not be rounded below it.

    Args:
        reference: G, the weights that the site was sent.
        residual: e of the round before; a tensor without one has 0.
        trained: names of the tensors that follow a gradient.

    Raises:
        InvalidInput: if a change is not finite, or beyond the range of `precision`.
    """
    sent: dict[str, NDArray[Any]] = {}
    left: dict[str, NDArray[np.float32]] = {}
    for name, value in weights.items():
        if name not in trained or value.dtype != _HALVED:
            sent[name] = value
            continue
        with np.errstate(over="ignore"):  # infinite then, and refused
            change = np.asarray(value - reference[name])
            if name in residual:
                change += residual[name]
        sent[name], left[name] = _rounded(change, name=name, precision=precision)
    return sent, left


def _rounded(
    change: NDArray[np.float32], *, name: str, precision: HalfPrecision
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Q(change) as it travels, and change − Q(change)."""
    exact = torch.from_numpy(change)
    rounded = exact.to(_TORCH[precision])
    if not torch.isfinite(rounded).all():
        if not torch.isfinite(exact).all():
            raise InvalidInput(
                f"the training left values in {name!r} that are not finite; lower learning_rate"
            )
        raise InvalidInput(
            f"the change of {name!r} reaches {float(exact.abs().max()):.4g}, beyond the "
            f"{torch.finfo(_TORCH[precision]).max:.4g} of {precision}; training has probably "
            "diverged: lower learning_rate, or use update_precision = full"
        )
    bits = rounded.view(torch.uint16) if precision == "bf16" else rounded
    return bits.numpy(), (exact - rounded.float()).numpy()


class RestoredWeights(Blockwise):
    """G + q: the weights of a site that sent their changes, computed whenever they are read.

    Args:
        sent: what arrived.
        reference: G, the weights that the site was sent; fixes the dtypes.
        trained: names of the tensors that follow a gradient.

    Raises:
        WireError: if a tensor does not travel in the plan's precision; on access, for a value that
            is not finite.
    """

    def __init__(
        self,
        sent: Weights,
        reference: Mapping[str, NDArray[Any]],
        *,
        trained: Collection[str],
        precision: HalfPrecision,
    ) -> None:
        self._sent, self._reference, self._precision = sent, reference, precision
        self._halved = {n for n in trained if n in sent and reference[n].dtype == _HALVED}
        for name in self._halved:
            dtype, shape = sent.described(name)
            if dtype != _SENT[precision] or shape != reference[name].shape:
                raise WireError(
                    f"the change of {name!r} is {dtype} {shape}; with update_precision = "
                    f"{precision} it is {_SENT[precision]} {reference[name].shape}"
                )

    def described(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        dtype, shape = self._sent.described(name)
        return (_HALVED if name in self._halved else dtype), shape

    def block(
        self, name: str, begin: int, end: int, *, buffer: NDArray[np.uint8] | None = None
    ) -> NDArray[Any]:
        if name not in self._halved:
            return self._sent.block(name, begin, end, buffer=buffer)
        count = end - begin
        # The sum in front, the change as it travels behind it.
        if buffer is None or buffer.size < 6 * count:
            buffer = np.empty(6 * count, np.uint8)
        value = buffer[: 4 * count].view(np.float32)
        change = self._sent.block(name, begin, end, buffer=buffer[4 * count :])
        _widen(change, self._precision, into=value)
        value += self._reference[name].reshape(-1)[begin:end]
        return value

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._halved:
            return self._sent[name]
        _, shape = self._sent.described(name)
        value = self.block(name, 0, math.prod(shape)).reshape(shape)
        if not np.isfinite(value).all():
            raise WireError(f"the tensor {name!r} holds values that are not finite")
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._sent

    def __iter__(self) -> Iterator[str]:
        return iter(self._sent)

    def __len__(self) -> int:
        return len(self._sent)


def _widen(change: NDArray[Any], precision: HalfPrecision, *, into: NDArray[np.float32]) -> None:
    """Writes the changes as they travel, flat, as numbers of fp32; exact."""
    sent: Tensor = torch.from_numpy(np.require(change, requirements="W"))
    torch.from_numpy(into).copy_(sent.view(_TORCH[precision]))

"""DP-SGD's inner part: a gradient for each unit, clipped, summed, and noised, by Opacus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from fdfed.errors import InvalidInput
from fdfed.privacy.randomness import Randomness


class SecureDPOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus ships no types
    """Opacus' DP-SGD, with noise from `randomness` instead of a torch generator.

    Its own `secure_mode` needs torchcsprng, which no current PyTorch runs.

    Args:
        expected_units: the denominator: units that a step draws on average, a public number. (What
            a step really drew is private.)
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_units: float,
        randomness: Randomness,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_units,
            loss_reduction="mean",
        )
        self._randomness = randomness

    def add_noise(self) -> None:
        """p.grad = Σ_i clip(g_i) + N(0, σ²C² I)."""
        std = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            total = parameter.summed_grad
            noise = self._randomness.gaussian(total.numel(), std=std)
            parameter.grad = (total + torch.from_numpy(noise).to(total).view_as(total)).view_as(
                parameter
            )


def check_hookable(network: nn.Module) -> None:
    """Nothing, if Opacus gets a gradient for each image of every weight of the network.

    Raises:
        InvalidInput: with the weights for which it does not, and what to use instead.
    """
    # A layer of its own has no layers below it; then Opacus knows it, or differentiates its forward
    # pass image by image. Weights beside layers have no forward pass of their own.
    raw = [
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if next(module.children(), None) is not None
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    ]
    coupled = [
        prefix
        for prefix, module in network.named_modules()
        if next(module.buffers(recurse=False), None) is not None
    ]
    if not raw and not coupled:
        return
    found = [f"weights that are no layer's: {', '.join(raw[:5])}"] if raw else []
    found += [f"layers with buffers: {', '.join(coupled[:5])}"] if coupled else []
    raise InvalidInput(
        f"DP-SGD cannot take a gradient for each image of {type(network).__name__}: it has "
        f"{' and '.join(found)}. Use unet, attention-unet, nucleisegnet or cmunet with "
        "norm = group"
    )


@contextmanager
def per_image_gradients(network: nn.Module) -> Iterator[None]:
    """Within the block a backward pass of the *sum* of losses leaves `grad_sample`, a gradient for
    each image, at every weight. Afterwards the network is as it was."""
    check_hookable(network)
    hooks = GradSampleModule(network, loss_reduction="sum")
    try:
        yield
    finally:
        hooks.to_standard_module()
        for parameter in network.parameters():
            parameter.grad = None
            for name in ("grad_sample", "summed_grad", "_forward_counter"):
                if hasattr(parameter, name):
                    delattr(parameter, name)


def gather_by_unit_(network: nn.Module, owner: Int64[Tensor, " images"], units: int) -> None:
    """Replaces each weight's gradients, one an image, by one a unit: the mean over its images.

    A unit whose gradient is not finite gets zeros: clipping would otherwise spread it over all.

    Args:
        owner: which unit an image belongs to, counted from 0.
        units: how many there are; 0 makes the gradients of an empty step.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    if units == 0:
        for parameter in parameters:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))  # type: ignore[attr-defined]
        return
    gathered = [_means(p.grad_sample.flatten(1), owner.to(p.device), units) for p in parameters]  # type: ignore[attr-defined]
    finite = torch.stack([rows.isfinite().all(1) for rows in gathered]).all(0).unsqueeze(1)
    for parameter, rows in zip(parameters, gathered, strict=True):
        kept = rows.where(finite, 0)
        parameter.grad_sample = kept.unflatten(1, parameter.shape)  # type: ignore[attr-defined]


def _means(
    rows: Float[Tensor, "images size"], owner: Int64[Tensor, " images"], units: int
) -> Float[Tensor, "units size"]:
    """The mean of each unit's rows. Added up, not multiplied by a matrix of shares: 0 · ∞ would
    carry one unit's infinity to all others."""
    counts = torch.bincount(owner, minlength=units).to(rows.dtype)
    return rows.new_zeros(units, rows.shape[1]).index_add(0, owner, rows) / counts.unsqueeze(1)

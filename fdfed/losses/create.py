"""Auxiliary losses by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fdfed import plugins
from fdfed.losses.auxiliary import AuxiliaryLoss, DeepSupervisionLoss, PixelContrastLoss

_LOSSES: Final[dict[str, type[AuxiliaryLoss]]] = {
    "con": PixelContrastLoss,
    "deeps": DeepSupervisionLoss,
}

AUXILIARY_LOSS_NAMES: Final = tuple(_LOSSES)
"""What `create_auxiliary_loss` knows beside the losses of installed packages."""


def create_auxiliary_loss(
    name: str, tap_channels: Mapping[str, int], *, weight: float | None = None
) -> AuxiliaryLoss:
    """The loss of that name, with heads for these taps, drawn from torch's global generator.

    Args:
        name: `con`, `deeps`, or what an installed package offers under `fdfed.losses`.
        tap_channels: of the network, `SegmentationNetwork.tap_channels`.
        weight: λ; None is the loss's own.

    Raises:
        InvalidInput: if no such loss is installed.
    """
    loss_class = _LOSSES.get(name)
    if loss_class is None:
        loss_class = plugins.load(
            "fdfed.losses",
            name,
            AuxiliaryLoss,  # type: ignore[type-abstract]  # a subclass of it is asked for
            built_in=AUXILIARY_LOSS_NAMES,
        )
    return loss_class(tap_channels, weight=weight)

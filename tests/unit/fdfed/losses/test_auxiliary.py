"""Auxiliary losses: names, weights and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fdfed.config import DISCREPANCY_LOSSES, LOSS_NAMES
from fdfed.errors import InvalidInput
from fdfed.losses import (
    AUXILIARY_LOSS_NAMES,
    Moment,
    create_auxiliary_loss,
    supervised_pixel_loss,
)
from fdfed.networks import create_network

CHANNELS = {"Enc1": 3, "Bot": 4, "Dec1": 2}


def moment(step: int = 0, steps: int = 10, seed: int = 0) -> Moment:
    return Moment(step=step, steps=steps, generator=torch.Generator().manual_seed(seed))


def taps_and_mask(*, requires_grad: bool = False) -> tuple[dict[str, Tensor], Tensor]:
    rng = torch.Generator().manual_seed(1)
    sides = {"Enc1": 8, "Bot": 4, "Dec1": 8}
    taps = {
        name: torch.randn(2, CHANNELS[name], side, side, generator=rng, dtype=torch.float64)
        for name, side in sides.items()
    }
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    mask[..., :4] = 1
    return {name: tap.requires_grad_(requires_grad) for name, tap in taps.items()}, mask


def test_the_configuration_knows_the_losses_that_are_built_in() -> None:
    assert ("seg", *DISCREPANCY_LOSSES, *AUXILIARY_LOSS_NAMES) == LOSS_NAMES


def test_an_unknown_loss_is_refused_with_the_known_names() -> None:
    with pytest.raises(InvalidInput, match=r"loss = cons is not known here.*con, deeps"):
        create_auxiliary_loss("cons", CHANNELS)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"auxiliary_weight is -1"):
        create_auxiliary_loss("con", CHANNELS, weight=-1.0)


def test_con_is_the_weighted_mean_of_the_taps_losses_after_their_projection() -> None:
    loss = create_auxiliary_loss("con", CHANNELS, weight=0.5).double()
    taps, mask = taps_and_mask()
    heads = loss.contrast.heads
    # The oracle projects whole maps; taps draw one after the other from one generator.
    rng = torch.Generator().manual_seed(7)
    expected = [
        supervised_pixel_loss(heads[name](tap), mask, generator=rng) for name, tap in taps.items()
    ]
    torch.testing.assert_close(loss(taps, mask, moment(seed=7)), 0.5 * torch.stack(expected).mean())


@pytest.mark.parametrize(("step", "eta"), [(0, 0.3), (5, 0.15), (9, 0.03)])
def test_deeps_scores_the_decoders_with_a_weight_that_falls_to_zero(step: int, eta: float) -> None:
    loss = create_auxiliary_loss("deeps", CHANNELS).double()
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.zero_()
    taps, mask = taps_and_mask()
    # One decoder; logits of zero: BCE = log 2, whatever the mask.
    torch.testing.assert_close(
        loss(taps, mask, moment(step)), torch.tensor(eta * math.log(2), dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("name", "reached"), [("con", {"Enc1", "Bot", "Dec1"}), ("deeps", {"Dec1"})]
)
def test_gradients_reach_the_taps_and_every_head(name: str, reached: set[str]) -> None:
    loss = create_auxiliary_loss(name, CHANNELS).double()
    taps, mask = taps_and_mask(requires_grad=True)
    loss(taps, mask, moment()).backward()
    assert {tap for tap, t in taps.items() if t.grad is not None and t.grad.any()} == reached
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())
    assert any(p.grad.any() for p in loss.parameters())


def test_an_image_of_one_class_costs_con_nothing_and_breaks_no_gradient() -> None:
    loss = create_auxiliary_loss("con", CHANNELS).double()
    taps, mask = taps_and_mask(requires_grad=True)
    value = loss(taps, torch.ones_like(mask), moment())
    value.backward()
    assert value.item() == 0
    assert all(tap.grad is not None and not tap.grad.any() for tap in taps.values())


@pytest.mark.parametrize("name", AUXILIARY_LOSS_NAMES)
@pytest.mark.parametrize("network", ["unet", "transunet", "swin-unet"])
def test_every_kind_of_network_has_taps_for_it_also_under_autocast(name: str, network: str) -> None:
    made = create_network(network, in_channels=1, width=8, norm="group", size=64)
    loss = create_auxiliary_loss(name, made.tap_channels)
    image = torch.rand(2, 1, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, taps = made.forward_with_taps(image)
        value = loss(taps, (image > 0.5).float(), moment())
    assert value.isfinite()
    assert value.dtype == torch.float32

"""Making networks: names, norms and group counts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.errors import InvalidInput
from fdfed.networks import NETWORK_NAMES, create_network
from fdfed.networks.layers import group_count, he_normal_


def test_an_unknown_network_is_refused_with_the_known_names() -> None:
    with pytest.raises(InvalidInput, match="vnet is not known") as caught:
        create_network("vnet", in_channels=3)
    assert all(name in str(caught.value) for name in NETWORK_NAMES)


def test_an_unknown_norm_and_impossible_channels_are_refused() -> None:
    with pytest.raises(InvalidInput, match="batch or group"):
        create_network("unet", in_channels=3, norm="layer")
    with pytest.raises(InvalidInput, match="at least 1"):
        create_network("unet", in_channels=0)
    with pytest.raises(InvalidInput, match="at least 1"):
        create_network("unet", in_channels=3, width=0)


def test_one_value_per_channel_is_refused_for_batch_norm_and_taken_for_group_norm() -> None:
    image = torch.rand(1, 1, 16, 16)
    with pytest.raises(InvalidInput, match="norm = group"):
        create_network("unet", in_channels=1, width=4)(image)
    assert create_network("unet", in_channels=1, width=4, norm="group")(image).isfinite().all()


@given(channels=st.integers(1, 2048))
@settings(deadline=None, max_examples=50)
def test_groups_divide_the_channels_and_hold_four_or_more_where_they_can(channels: int) -> None:
    groups = group_count(channels)
    assert channels % groups == 0
    assert 1 <= groups <= 32
    assert groups == 1 or channels // groups >= 4


def test_group_counts_of_usual_widths() -> None:
    assert [group_count(c) for c in (4, 16, 32, 64, 128, 1024)] == [1, 4, 8, 16, 32, 32]


def test_he_initialisation_counts_the_products_that_meet_in_one_value() -> None:
    torch.manual_seed(0)
    # A 2x2 kernel at stride 2 puts one of its values on each pixel: 64 products. The plain one
    # sums over 16 channels and 9 pixels.
    up = torch.nn.ConvTranspose2d(64, 256, 2, stride=2)
    plain = torch.nn.Conv2d(16, 512, 3)
    he_normal_(up)
    he_normal_(plain)
    assert up.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.02)
    assert plain.weight.std().item() == pytest.approx((2 / 144) ** 0.5, rel=0.02)
    assert torch.equal(up.bias, torch.zeros(256))

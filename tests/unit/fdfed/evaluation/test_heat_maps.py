"""Where a network is active."""

from __future__ import annotations

import numpy as np
import torch

from fdfed.evaluation.heat_maps import common_scales, heat_maps, heat_mean, shown_taps
from fdfed.evaluation.whole_image import WINDOW
from fdfed.networks import create_network

NETWORK = create_network("unet", in_channels=1, width=4)


def test_a_heat_map_is_the_mean_over_channels_of_bot_and_of_the_last_decoder() -> None:
    image = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = heat_maps(NETWORK, image)
    assert list(found) == list(shown_taps(NETWORK)) == ["Bot", "Dec4"]
    with torch.no_grad():
        _, taps = NETWORK.eval().forward_with_taps(image[None])
    for name, heat in found.items():
        np.testing.assert_allclose(heat, taps[name][0].mean(0).numpy(), rtol=1e-5)


def test_what_was_padded_is_cut_off_again_to_whole_cells() -> None:
    # 40 by 24 pixels are padded to 48 by 32; a cell of Bot is 16 pixels.
    found = heat_maps(NETWORK, torch.rand(1, 40, 24))
    assert {name: heat.shape for name, heat in found.items()} == {"Bot": (3, 2), "Dec4": (40, 24)}


def test_an_image_that_goes_through_windows_has_no_heat_map() -> None:
    assert heat_maps(NETWORK, torch.rand(1, 16, WINDOW + 16)) == {}


def test_one_scale_serves_all_maps_of_a_tap() -> None:
    maps = [{"Bot": np.array([[0.0, 2.0]])}, {"Bot": np.array([[-1.0, 1.0]])}]
    assert common_scales(maps) == {"Bot": (-1.0, 2.0)}


def test_the_mean_of_a_region_gives_each_pixel_the_value_of_its_cell() -> None:
    heat = np.array([[1.0, 3.0]])
    region = np.zeros((2, 4), dtype=bool)
    region[:, 1:3] = True  # two pixels of each cell
    assert heat_mean(heat, region) == "2.00"
    assert heat_mean(heat, ~np.ones((2, 4), dtype=bool)) == "nothing"

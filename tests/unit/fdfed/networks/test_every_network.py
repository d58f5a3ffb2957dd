"""What holds for every network that `create_network` knows."""

from __future__ import annotations

import re
from typing import Final

import pytest
import torch
from torch import nn

from fdfed.errors import InvalidInput
from fdfed.networks import NETWORK_NAMES, SegmentationNetwork, create_network

SMALL: Final = {
    "unet": (4, 32),
    "attention-unet": (4, 16),
    "nucleisegnet": (4, 32),
    "cmunet": (4, 32),
    "transunet": (4, 32),
    "swin-unet": (8, 64),
}
"""Width and side that keep a test quick, by network; `_QUICK` for all others."""
_QUICK: Final = (8, 64)

CHANNELS: Final = {
    "unet": (64, 128, 256, 512, 1024, 512, 256, 128, 64),
    "attention-unet": (64, 128, 256, 512, 256, 128, 64),
    "nucleisegnet": (32, 64, 128, 256, 512, 256, 128, 64, 32),
    "cmunet": (64, 128, 256, 512, 1024, 512, 256, 128, 64),
    "transunet": (64, 256, 512, 512, 256, 128, 64, 16),
    "swin-unet": (96, 192, 384, 768, 384, 192, 96),
}
"""Channels of the taps from top to bottom at the width of a publication that gives them."""

pytestmark = pytest.mark.parametrize("name", NETWORK_NAMES)


def _small(name: str, *, norm: str = "batch", in_channels: int = 3) -> SegmentationNetwork:
    torch.manual_seed(3)
    width, size = SMALL.get(name, _QUICK)
    return create_network(name, in_channels=in_channels, width=width, norm=norm, size=size)


def _images(name: str, *, batch: int = 2, in_channels: int = 3) -> torch.Tensor:
    side = SMALL.get(name, _QUICK)[1]
    return torch.rand(batch, in_channels, side, side)


def test_taps_have_the_published_channels_and_go_down_and_up_again(name: str) -> None:
    with torch.device("meta"):
        network = create_network(name, in_channels=3)
    assert tuple(network.tap_channels.values()) == CHANNELS.get(
        name, tuple(network.tap_channels.values())
    )
    names = list(network.tap_names)
    bottom = names.index("Bot")
    assert names[:bottom] == [f"Enc{k}" for k in range(1, bottom + 1)]
    assert names[bottom + 1 :] == [f"Dec{k}" for k in range(1, len(names) - bottom)]
    strides = list(network.tap_strides.values())
    assert strides[: bottom + 1] == sorted(strides[: bottom + 1])
    assert strides[bottom:] == sorted(strides[bottom:], reverse=True)


def test_taps_have_the_announced_channels_and_strides(name: str) -> None:
    network, image = _small(name), _images(name)
    logits, taps = network.forward_with_taps(image)
    side = image.shape[-1]
    assert logits.shape == (2, 1, side, side)
    assert tuple(taps) == network.tap_names
    for tap, features in taps.items():
        cells = side // network.tap_strides[tap]
        assert features.shape == (2, network.tap_channels[tap], cells, cells), tap


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_gradients_reach_every_parameter(name: str, norm: str) -> None:
    network = _small(name, norm=norm)
    network(_images(name)).square().sum().backward()
    missing = [key for key, p in network.named_parameters() if p.grad is None]
    assert missing == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_loss_sees_each_tap_as_it_was_computed(name: str) -> None:
    """A layer that worked in place on a tap would change it, or break its gradient."""
    network = _small(name)
    logits, taps = network.forward_with_taps(_images(name))
    versions = {tap: features._version for tap, features in taps.items()}
    assert set(versions.values()) == {0}
    gradients = torch.autograd.grad(logits.sum(), list(taps.values()))
    assert all(g.abs().sum() > 0 for g in gradients)


def test_forward_is_the_logits_of_forward_with_taps(name: str) -> None:
    network, image = _small(name).eval(), _images(name)
    with torch.no_grad():
        assert torch.equal(network(image), network.forward_with_taps(image)[0])


def test_equal_seeds_give_equal_weights_and_forward_draws_nothing(name: str) -> None:
    first, second = _small(name), _small(name)
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[key]), key
    image = _images(name)
    before = torch.get_rng_state()
    first.eval()(image)
    assert torch.equal(torch.get_rng_state(), before)


def test_group_norm_leaves_no_batch_norm_and_makes_images_independent(name: str) -> None:
    network = _small(name, norm="group").double()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    network.eval()  # without dropout
    image = _images(name, batch=3).double()
    together, alone = network(image), network(image[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_one_or_three_channels_are_taken(name: str, channels: int) -> None:
    network = _small(name, in_channels=channels)
    assert network(_images(name, in_channels=channels)).shape[1] == 1


def test_half_precision_agrees_with_full_precision(name: str) -> None:
    network, image = _small(name).eval(), _images(name)
    with torch.no_grad():
        exact = network(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = network(image)
        half = network.to(torch.bfloat16)(image.to(torch.bfloat16))
    scale = float(exact.abs().max())
    for rough in (mixed, half):
        assert float((rough.float() - exact).abs().max()) < 0.1 * scale


def test_gradients_reach_every_parameter_under_autocast_and_in_half_precision(name: str) -> None:
    network, image = _small(name), _images(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(image)
    logits.float().square().mean().backward()
    half = _small(name).to(torch.bfloat16)
    half(image.to(torch.bfloat16)).square().mean().backward()
    for trained in (network, half):
        missing = [
            key
            for key, p in trained.named_parameters()
            if p.grad is None or not p.grad.isfinite().all()
        ]
        assert missing == []


def test_the_sizes_that_a_refusal_names_are_taken(name: str) -> None:
    width, side = SMALL.get(name, _QUICK)
    with pytest.raises(InvalidInput, match="Use") as refused:
        create_network(name, in_channels=3, width=width, size=side + 3)
    advice = str(refused.value).rpartition("Use ")[2]
    for size in map(int, re.findall(r"\d+", advice)):
        network = create_network(name, in_channels=3, width=width, size=size)
        with torch.no_grad():
            assert network.eval()(torch.rand(1, 3, size, size)).shape[2:] == (size, size)


def test_an_odd_size_is_refused_with_the_sizes_that_would_do(name: str) -> None:
    with torch.device("meta"), pytest.raises(InvalidInput, match=r"Use \d+"):
        create_network(name, in_channels=3, size=100 + 1)


@pytest.mark.bad_input
def test_an_image_of_other_channels_is_refused(name: str) -> None:
    network = _small(name, in_channels=1)
    with pytest.raises(InvalidInput, match="in_channels"):
        network(_images(name, in_channels=3))


def test_an_image_of_a_side_that_cannot_be_halved_is_refused(name: str) -> None:
    network = _small(name)
    side = SMALL.get(name, _QUICK)[1] + 3
    with pytest.raises(InvalidInput, match=r"Use \d+|fit \d+"):
        network(torch.rand(1, 3, side, side))


def test_no_layer_works_in_place(name: str) -> None:
    assert not [m for m in _small(name).modules() if getattr(m, "inplace", False)]

"""NucleiSegNet: published sizes of every part, its initial values, and its gate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fdfed.errors import InvalidInput
from fdfed.networks import NucleiSegNet


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_nucleisegnet_has_the_published_number_of_parameters_part_by_part() -> None:
    with torch.device("meta"):
        network = NucleiSegNet(in_channels=3)
    assert _parameters(network) == 12_395_713
    # Enc1: convolutions 3→32, 32→32 and 35→32 of 3x3 (896 + 9,248 + 10,112), depthwise 32·9 and
    # pointwise 32·32 + 32 (1,344), four norms of 64.
    assert [_parameters(m) for m in network.encoders] == [21_856, 116_032, 461_440, 1_840_384]
    assert _parameters(network.bottleneck) == 5_902_848
    decoders = list(network.decoders)
    assert [_parameters(m.gate) for m in decoders] == [754_944, 189_056, 47_424, 11_936]
    assert [_parameters(m.up) for m in decoders] == [524_544, 131_200, 32_832, 8_224]
    assert [_parameters(m.block) for m in decoders] == [1_771_008, 443_136, 110_976, 27_840]
    assert _parameters(network.head) == 33


def test_initial_biases_and_norm_settings_are_the_published_ones() -> None:
    network = NucleiSegNet(in_channels=3, width=4)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
            assert (module.bias == 0.1).all()
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-3, 0.5)
    encoder = [m for m in network.encoders.modules() if isinstance(m, nn.BatchNorm2d)]
    others = [
        m
        for part in (network.bottleneck, network.decoders)
        for m in part.modules()
        if isinstance(m, nn.BatchNorm2d)
    ]
    assert len(encoder) == 16
    assert all((m.bias == 0.01).all() for m in encoder)
    assert all((m.bias == 0).all() for m in others)


def test_an_open_gate_passes_the_skip_connection_and_a_closed_one_nothing() -> None:
    gate = NucleiSegNet(in_channels=1, width=4).decoders[0].gate
    norm = gate.attention[-1]
    nn.init.zeros_(norm.weight)
    skip, below = torch.randn(2, 32, 8, 8), torch.randn(2, 64, 4, 4)
    for bias, factor in ((200.0, 1.0), (0.0, 0.5), (-200.0, 0.0)):
        nn.init.constant_(norm.bias, bias)
        torch.testing.assert_close(gate(below, skip), factor * skip)


def test_an_odd_width_is_refused_with_the_widths_that_would_do() -> None:
    with pytest.raises(InvalidInput, match="Use 4 or 6"):
        NucleiSegNet(in_channels=3, width=5)

"""CMUNet: published sizes of every part, the reach of its mixer, and its gate."""

from __future__ import annotations

import torch
from torch import nn

from fdfed.networks import CMUNet


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_cmunet_has_the_published_number_of_parameters_part_by_part() -> None:
    with torch.device("meta"):
        network = CMUNet(in_channels=3)
    assert _parameters(network) == 49_932_353
    # A mixer layer of 1024: 1024·49 + 1024 depthwise, 1024² + 1024 pointwise, two norms of 2048.
    assert _parameters(network.mixer) == 7 * 1_104_896 == 7_734_272
    assert [_parameters(m) for m in network.gates] == [5_773_312, 1_444_864, 361_984, 90_880]
    assert [_parameters(m) for m in network.ups] == [4_720_128, 1_180_416, 295_296, 73_920]


def test_a_gate_with_a_closed_vote_still_passes_the_skip_connection_once() -> None:
    gate = CMUNet(in_channels=1, width=4).gates[3]
    norm = gate.vote[-1]
    nn.init.zeros_(norm.weight)
    skip = torch.randn(2, 4, 8, 8)
    for bias, factor in ((-200.0, 1.0), (0.0, 1.5), (200.0, 2.0)):
        nn.init.constant_(norm.bias, bias)
        torch.testing.assert_close(gate(skip), factor * skip)


def test_the_gates_branches_reach_one_three_and_five_pixels() -> None:
    gate = CMUNet(in_channels=1, width=4).double().gates[3].eval()
    impulse = torch.zeros(1, 4, 11, 11, dtype=torch.float64)
    changed = impulse.clone()
    changed[..., 5, 5] = 1
    for branch, reach in zip(gate.branches, (1, 3, 5), strict=True):
        rows = (branch(changed) - branch(impulse)).abs().sum((0, 1, 2)).nonzero().flatten()
        assert int(rows.max() - rows.min()) + 1 == reach


def test_each_mixer_layer_reaches_three_cells_and_keeps_its_input() -> None:
    layer = CMUNet(in_channels=1, width=2).double().mixer[0].eval()
    impulse = torch.zeros(1, 32, 15, 15, dtype=torch.float64)
    changed = impulse.clone()
    changed[..., 7, 7] = 1
    columns = (layer(changed) - layer(impulse)).abs().sum((0, 1, 2)).nonzero().flatten()
    assert (int(columns.min()), int(columns.max())) == (4, 10)
    for parameter in layer.depthwise[0].parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(1, 32, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer.pointwise(x))

"""Attention U-Net: published sizes, the gate, and the two conventions for encoder taps."""

from __future__ import annotations

import torch
from torch import nn

from fdfed.networks import AttentionUNet


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_attention_unet_has_the_released_number_of_parameters() -> None:
    with torch.device("meta"):
        network = AttentionUNet(in_channels=3)
    assert _parameters(network) == 8_135_745
    assert [_parameters(m) for m in network.encoders] == [38_976, 221_952, 886_272]
    assert _parameters(network.bottleneck) == 3_542_016
    assert [_parameters(m) for m in network.decoders] == [2_624_768, 657_024, 164_672]
    assert _parameters(network.head) == 65


def test_a_closed_gate_lets_nothing_of_the_skip_connection_through() -> None:
    network = AttentionUNet(in_channels=1, width=4, norm="group")
    gate = network.decoders[0].gate
    nn.init.zeros_(gate.attention.weight)
    nn.init.constant_(gate.attention.bias, -200.0)  # sigmoid(-200) = 0 in fp32
    skip = torch.randn(1, 16, 8, 8)
    assert torch.equal(gate(torch.randn(1, 32, 8, 8), skip), torch.zeros_like(skip))
    nn.init.constant_(gate.attention.bias, 0.0)  # sigmoid(0) = 1/2
    torch.testing.assert_close(gate(torch.randn(1, 32, 8, 8), skip), skip / 2)


def test_pooled_up_taps_are_the_pooled_encoder_maps_at_the_encoders_size() -> None:
    torch.manual_seed(1)
    released = AttentionUNet(in_channels=1, width=4, tap_point="pooled_up").eval()
    plain = AttentionUNet(in_channels=1, width=4).eval()
    plain.load_state_dict(released.state_dict())
    image = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        logits, pooled = released.forward_with_taps(image)
        same_logits, before = plain.forward_with_taps(image)
    assert torch.equal(logits, same_logits)
    for name in ("Enc1", "Enc2", "Enc3"):
        expected = nn.functional.interpolate(
            nn.functional.max_pool2d(before[name], 2),
            scale_factor=2,
            mode="bilinear",
            align_corners=False,
        )
        torch.testing.assert_close(pooled[name], expected)
    assert torch.equal(pooled["Bot"], before["Bot"])

"""TransUNet: published sizes, torch's own encoder layer as an oracle, standardised weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fdfed.errors import InvalidInput
from fdfed.networks import TransUNet


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_transunet_has_the_published_number_of_parameters_part_by_part() -> None:
    with torch.device("meta"):
        network = TransUNet(in_channels=3)
    assert _parameters(network) == 105_322_001
    assert _parameters(network.bottleneck) + _parameters(network.decoders) == 7_387_200
    assert _parameters(network.head) == 145
    assert network.position.shape == (1, 256, 768)
    # ViT-Base: 12 d² + 13 d parameters a layer, d = 768.
    assert _parameters(network.layers) == 12 * (12 * 768**2 + 13 * 768)


def test_a_transformer_layer_computes_what_torchs_own_computes() -> None:
    torch.manual_seed(0)
    ours = TransUNet(in_channels=1, width=4, size=32).double().layers[0].eval()
    theirs = nn.TransformerEncoderLayer(
        48, 12, 192, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    theirs.double().eval()
    projections = (ours.query, ours.key, ours.value)
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": torch.cat([p.weight.detach() for p in projections]),
            "self_attn.in_proj_bias": torch.cat([p.bias.detach() for p in projections]),
            "self_attn.out_proj.weight": ours.out.weight,
            "self_attn.out_proj.bias": ours.out.bias,
            "norm1.weight": ours.attention_norm.weight,
            "norm1.bias": ours.attention_norm.bias,
            "norm2.weight": ours.mlp[0].weight,
            "norm2.bias": ours.mlp[0].bias,
            "linear1.weight": ours.mlp[1].weight,
            "linear1.bias": ours.mlp[1].bias,
            "linear2.weight": ours.mlp[4].weight,
            "linear2.bias": ours.mlp[4].bias,
        }
    )
    tokens = torch.randn(2, 4, 48, dtype=torch.float64)
    torch.testing.assert_close(ours(tokens), theirs(tokens))


def test_scaling_or_shifting_a_standardised_kernel_changes_nothing() -> None:
    torch.manual_seed(0)
    conv = TransUNet(in_channels=1, width=4, size=32).double().encoder.stem[0]
    image = torch.rand(1, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        before = conv(image)
        conv.weight.mul_(50).add_(3)
    # Not exactly: ε = 1e-5 under the root weighs less against the larger variance.
    torch.testing.assert_close(conv(image), before, rtol=1e-3, atol=1e-3)


def test_only_the_decoder_follows_the_norm_option() -> None:
    batch = TransUNet(in_channels=1, width=4, size=32)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in batch.encoder.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in batch.decoders.modules())


def test_a_width_that_is_no_multiple_of_four_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Use 4 or 8"):
        TransUNet(in_channels=3, width=6)


def test_an_image_of_another_size_than_the_embeddings_is_refused() -> None:
    network = TransUNet(in_channels=1, width=4, size=32)
    with pytest.raises(InvalidInput, match="fit 32 x 32 only"):
        network(torch.rand(1, 1, 48, 48))

"""U-Net: published sizes, taps, and MONAI's BasicUNet as an oracle for the layers both have."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from fdfed.networks import UNet, create_network


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("width", "count"), [(64, 31_043_521), (32, 7_765_985), (16, 1_944_049)])
def test_unet_has_the_published_number_of_parameters(width: int, count: int) -> None:
    with torch.device("meta"):
        network = create_network("unet", in_channels=3, width=width)
    assert _parameters(network) == count


def test_each_module_of_unet_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        network = UNet(in_channels=3)
    encoders = [_parameters(module) for module in network.encoders]
    # Enc1: 3·64·9 + 64 and 64·64·9 + 64 for the convolutions, 2·2·64 for the norms.
    assert encoders == [38_976, 221_952, 886_272, 3_542_016]
    assert _parameters(network.bottleneck) == 14_161_920
    # Up-convolutions: 2c · c · 4 + c for c = 512, 256, 128, 64.
    assert [_parameters(up) for up in network.ups] == [2_097_664, 524_544, 131_200, 32_832]
    assert _parameters(network.head) == 65


def test_unet_computes_what_monai_computes_with_the_same_weights() -> None:
    ours = UNet(in_channels=3, width=4).eval()
    theirs = BasicUNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=1,
        features=(4, 8, 16, 32, 64, 4),
        act="relu",
        norm="batch",
    ).eval()
    # BasicUNet's last up-convolution keeps its channels (8 -> 8 instead of 8 -> 4): the decoders
    # above it are compared, and the last one is not.
    pairs = [
        *zip(ours.encoders[0], _layers(theirs.conv_0), strict=True),
        *zip(ours.encoders[1], _layers(theirs.down_1), strict=True),
        *zip(ours.encoders[2], _layers(theirs.down_2), strict=True),
        *zip(ours.encoders[3], _layers(theirs.down_3), strict=True),
        *zip(ours.bottleneck, _layers(theirs.down_4), strict=True),
    ]
    decoders = (theirs.upcat_4, theirs.upcat_3, theirs.upcat_2)
    for k, decoder in enumerate(decoders):
        pairs.append((ours.ups[k], decoder.upsample.deconv))
        pairs.extend(zip(ours.decoders[k], _layers(decoder.convs), strict=True))
    for mine, other in pairs:
        other.load_state_dict(mine.state_dict())

    image = torch.rand(2, 3, 32, 32)
    seen: dict[str, Tensor] = {}
    for name, module in (("Enc1", theirs.conv_0), ("Bot", theirs.down_4), ("Dec3", theirs.upcat_2)):
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        theirs(image)
        _, taps = ours.forward_with_taps(image)
    for name, expected in seen.items():
        torch.testing.assert_close(taps[name], expected, rtol=1e-4, atol=1e-5)


def _layers(block: nn.Module) -> list[nn.Module]:
    """Convolutions, norms and activations of a MONAI block in the order in which they run."""
    return [m for m in block.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.ReLU)]


def test_he_initialisation_keeps_the_variance_of_the_bottleneck_near_one() -> None:
    # After a convolution with variance 2 / fan-in over inputs of mean square 1 comes the norm;
    # its input then has a mean square of about 2: neither vanishing nor growing with depth.
    torch.manual_seed(0)
    network = UNet(in_channels=3, width=16)
    seen: list[Tensor] = []
    network.bottleneck[3].register_forward_hook(lambda _m, _i, out: seen.append(out))
    network(torch.randn(4, 3, 64, 64))
    assert 0.5 < seen[0].square().mean() < 2.0

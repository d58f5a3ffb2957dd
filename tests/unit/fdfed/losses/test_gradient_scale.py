"""The gradient scale report: by hand on one weight, and what it leaves as it was."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fdfed.data import write_phantoms
from fdfed.losses import (
    feature_discrepancy_loss,
    gradient_norm,
    gradient_scales,
    segmentation_loss,
)
from fdfed.networks import create_network
from fdfed.networks.base import SegmentationNetwork, Tap, TapSink
from fdfed.prototypes import masked_prototypes
from fdfed.training.model_file import ModelHeader, save_model

PAGE = Path(__file__).parents[4] / "docs" / "METHOD.md"


class OneWeight(SegmentationNetwork):
    """Its one tap is the image times a weight."""

    paper_width = 1

    def __init__(self, weight: float) -> None:
        super().__init__(
            in_channels=1, norm="group", taps={"Bot": Tap(1, 1)}, size_multiple=1, size=None
        )
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
        taps["Bot"] = features = self.weight * image
        return features


def batch(images: int = 1) -> tuple[Tensor, Tensor]:
    """Two rows of three pixels: foreground 5 above, background 1 below."""
    image = torch.tensor([[5.0] * 3, [1.0] * 3], dtype=torch.float64).repeat(images, 1, 1, 1)
    return image, (image > 3).double()


def test_the_scales_are_those_worked_by_hand() -> None:
    # F - B = 4 w, so L = -log 16 w² and ∂L/∂w = -2 / w = -4 at w = 1/2. Each of the 3 cells of a
    # region moves F or B by 1/3, and ∂L/∂F = -∂L/∂B = -2 / (4 w) = -1: ‖∂L/∂tap‖ = √(6 / 9).
    network = OneWeight(0.5)
    image, mask = batch()
    scales = gradient_scales(network, image, mask, alpha={"Bot": 0.1}, eps=1e-12)
    (slope,) = torch.autograd.grad(segmentation_loss(network(image), mask), network.weight)
    tap = scales.taps["Bot"]
    assert scales.segmentation == pytest.approx(abs(slope.item()))
    assert (tap.loss, tap.valid) == (pytest.approx(-math.log(4)), 1.0)
    assert tap.at_weights == pytest.approx(4.0)
    assert tap.at_tap == pytest.approx(math.sqrt(6 / 9))
    assert tap.share == pytest.approx(0.1 * 4 / abs(slope.item()))


def test_a_tap_pulls_the_harder_the_closer_its_regions_are() -> None:
    """‖∂L_fd/∂(F, B)‖ = 2 √2 / √D: ten times as close, ten times as hard."""
    image, mask = batch()
    closer = torch.where(mask > 0, 1.4, 1.0).double()
    far, near = (gradient_scales(OneWeight(1.0), x, mask, eps=1e-12) for x in (image, closer))
    assert near.taps["Bot"].at_tap == pytest.approx(10 * far.taps["Bot"].at_tap)


def test_every_norm_of_a_network_is_autograds() -> None:
    torch.manual_seed(0)
    network = create_network("unet", in_channels=1, width=2, norm="group").double()
    image, mask = torch.rand(2, 1, 32, 32).double(), torch.zeros(2, 1, 32, 32).double()
    mask[:, :, 4:20, 6:18] = 1
    scales = gradient_scales(network, image, mask)
    _, taps = network.forward_with_taps(image)
    assert tuple(scales.taps) == network.tap_names
    for name, features in taps.items():
        loss = feature_discrepancy_loss(*masked_prototypes(features, mask))
        network.zero_grad()
        loss.backward(retain_graph=True)
        squares = [p.grad.square().sum() for p in network.parameters() if p.grad is not None]
        assert scales.taps[name].at_weights == pytest.approx(math.sqrt(sum(map(float, squares))))
        assert math.isnan(scales.taps[name].share)


def test_a_batch_without_both_regions_pulls_at_nothing() -> None:
    network = create_network("unet", in_channels=1, width=2)
    scales = gradient_scales(network, torch.rand(2, 1, 32, 32), torch.zeros(2, 1, 32, 32))
    for tap in scales.taps.values():
        assert math.isnan(tap.loss)
        assert (tap.valid, tap.at_weights, tap.at_tap) == (0.0, 0.0, 0.0)


def test_a_loss_that_depends_on_nothing_has_no_gradient() -> None:
    assert gradient_norm(torch.tensor(1.0), [nn.Parameter(torch.ones(1))]) == 0.0


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(training: bool) -> None:
    network = create_network("unet", in_channels=1, width=2).train(training)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 8:20] = 1
    gradient_scales(network, torch.rand(2, 1, 32, 32), mask)
    assert network.training == training
    assert all(p.grad is None for p in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_code_of_the_page_reports_on_a_finished_runs_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = create_network("unet", in_channels=1, width=2, size=32)
    alpha = dict.fromkeys(network.tap_names, 0.01)
    header = ModelHeader(
        network="unet",
        width=2,
        norm="batch",
        in_channels=1,
        size=32,
        taps=network.tap_names,
        alpha=alpha,
    )
    save_model(tmp_path / "model.safetensors", network.state_dict(), header)
    write_phantoms(tmp_path, "tnbc", images=12, size=32)
    text = PAGE.read_text(encoding="utf-8")
    (code,) = (
        block
        for block in re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S)
        if "gradient_scales" in block
    )
    code = code.replace("runs/first/", f"{tmp_path}/").replace('"DATA"', f'"{tmp_path}"')
    exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(network.tap_names)
    assert all(line.endswith("%") for line in lines)

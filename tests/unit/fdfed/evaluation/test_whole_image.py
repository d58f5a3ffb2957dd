"""A network that takes some sizes only gives logits for every pixel of any image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fdfed.evaluation import whole_image
from fdfed.evaluation.whole_image import whole_image_logits
from fdfed.networks import create_network
from fdfed.networks.base import SegmentationNetwork, Tap, TapSink


class Brightness(SegmentationNetwork):
    """Answers each pixel with its own level; takes sides that are multiples of 8."""

    paper_width = 1

    def __init__(self, *, size: int | None = None) -> None:
        super().__init__(
            in_channels=1,
            norm="batch",
            taps={"Bot": Tap(1, 8)},
            size_multiple=8,
            size=size,
            fixed_size=size is not None,
        )
        self.seen: list[tuple[int, ...]] = []

    def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
        self.seen.append(tuple(image.shape[-2:]))
        # A copy: MONAI weighs what it is given in place.
        taps["Bot"] = image
        return image.clone()


@pytest.mark.parametrize("shape", [(16, 16), (17, 23), (8, 40), (3, 5)])
def test_an_image_that_fits_is_seen_once_and_every_pixel_answers_for_itself(
    shape: tuple[int, int],
) -> None:
    network, image = Brightness().eval(), torch.rand(2, 1, *shape)
    assert torch.equal(whole_image_logits(network, image), image)
    assert len(network.seen) == 1


def test_a_large_image_is_seen_in_windows_and_comes_back_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(whole_image, "WINDOW", 16)
    network, image = Brightness().eval(), torch.rand(1, 1, 37, 50)
    torch.testing.assert_close(whole_image_logits(network, image), image)
    assert set(network.seen) == {(16, 16)}


def test_a_network_of_fixed_size_gets_windows_of_that_size_also_of_a_smaller_image() -> None:
    for shape in ((24, 24), (40, 33), (10, 12)):
        network, image = Brightness(size=24).eval(), torch.rand(1, 1, *shape)
        torch.testing.assert_close(whole_image_logits(network, image), image)
        assert set(network.seen) == {(24, 24)}


def test_a_unet_answers_an_image_of_odd_size() -> None:
    network = create_network("unet", in_channels=3, width=2).eval()
    with torch.no_grad():
        assert whole_image_logits(network, torch.rand(1, 3, 37, 50)).shape == (1, 1, 37, 50)

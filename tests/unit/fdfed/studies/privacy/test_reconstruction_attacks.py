"""Reconstruction succeeds where the picture is in what is seen, and fails where it is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fdfed.exchange import TapLayout
from fdfed.networks import create_network
from fdfed.networks.base import SegmentationNetwork, Tap, TapSink
from fdfed.studies.privacy.dp_release import DIMENSIONS, DpRelease
from fdfed.studies.privacy.inversion import LearnedInverse
from fdfed.studies.privacy.matching import Seen, cosine, match
from fdfed.studies.privacy.matching_jobs import shrunk
from fdfed.studies.privacy.observed import (
    gradient_of,
    log_gaps,
    prototypes_of,
    released_prototypes,
)
from fdfed.studies.privacy.setting import Images
from fdfed.studies.privacy.similarity import correlation

SIDE = 4


class OneLayer(SegmentationNetwork):
    """A bias and a weight for every pixel: the gradient of the weight over that of the bias is the
    picture itself (Phong et al. 2018)."""

    def __init__(self) -> None:
        super().__init__(
            in_channels=1, norm="group", taps={"Enc1": Tap(1, 1)}, size_multiple=1, size=SIDE
        )
        self.weight = nn.Parameter(torch.full((SIDE, SIDE), 0.5))
        self.bias = nn.Parameter(torch.zeros(SIDE, SIDE))

    def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
        taps["Enc1"] = features = self.weight * image + self.bias
        return features


def picture(seed: int = 0) -> Float[Tensor, "1 1 h w"]:
    return torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


MASK = torch.zeros(1, 1, SIDE, SIDE)
MASK[..., :2] = 1


def test_a_gradient_that_holds_the_picture_is_inverted() -> None:
    network, truth = OneLayer(), picture()
    weight, bias = gradient_of(network, truth, MASK)
    torch.testing.assert_close((weight / bias)[None, None], truth)
    guess = match(
        network,
        MASK,
        Seen(gradient=[weight, bias]),
        start=torch.full_like(truth, 0.5),
        steps=400,
        rate=0.03,
        smoothness=0.0,
    )
    assert correlation(guess, truth).item() > 0.95


def test_matching_what_the_start_would_send_stays_there() -> None:
    network, truth = OneLayer(), picture()
    seen = Seen(prototypes=prototypes_of(network, truth, MASK)[0].detach())
    guess = match(network, MASK, seen, start=truth, steps=5, rate=1e-4, smoothness=0.0)
    torch.testing.assert_close(guess, truth, atol=1e-3, rtol=0)


def test_a_cosine_is_over_all_parameters_as_one_vector() -> None:
    # (1, 0, 2) and (2, 5, 0): 2 / (√5 √29).
    first = [torch.tensor([1.0, 0.0]), torch.tensor([2.0])]
    second = [torch.tensor([2.0, 5.0]), torch.tensor([0.0])]
    assert cosine(first, second).item() == pytest.approx(2 / 145**0.5)


def test_a_linear_release_is_inverted_from_proxies_alone() -> None:
    rng = np.random.default_rng(0)
    pictures, secret = rng.random((200, 16)), rng.random((5, 16))
    way = rng.normal(size=(16, 40))
    groups = [f"patient {i // 2}" for i in range(200)]
    inverse = LearnedInverse.fit(pictures @ way, pictures, groups=groups)
    np.testing.assert_allclose(inverse.guess(secret @ way), secret, atol=0.02)


def test_from_noise_the_inverse_learns_to_give_the_mean_picture() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.random((80, 16))
    inverse = LearnedInverse.fit(
        rng.normal(size=(80, 40)), pictures, groups=[str(i) for i in range(80)]
    )
    guess = inverse.guess(rng.normal(size=(5, 40)))
    np.testing.assert_allclose(guess, np.tile(pictures.mean(0), (5, 1)), atol=0.1)


def images(count: int) -> Images:
    rng = torch.Generator().manual_seed(0)
    mask = torch.zeros(count, 1, 16, 16)
    mask[..., :4, :4] = 1
    names = tuple(f"site/{i}" for i in range(count))
    return Images(torch.rand(count, 1, 16, 16, generator=rng), mask, names)


def test_a_release_is_the_mean_of_the_images_in_which_a_tap_is_valid() -> None:
    network = create_network("unet", in_channels=1, width=2, norm="group", size=16)
    some = images(3)
    # In the third image there is no foreground: it takes no part at any tap.
    some.mask[2] = 0
    single = released_prototypes(network, some, [[0], [1], [2]])
    pair, triple = released_prototypes(network, some, [[0, 1], [0, 1, 2]])
    np.testing.assert_allclose(pair, (single[0] + single[1]) / 2, atol=1e-6)
    np.testing.assert_allclose(triple, pair, atol=1e-6)
    assert not single[2].any()


def test_gaps_are_what_no_rotation_changes() -> None:
    network = create_network("unet", in_channels=1, width=2, norm="group", size=16)
    frame = np.zeros((1, 2 * sum(network.tap_channels.values())))
    frame[0, 0], frame[0, 1] = 3.0, 4.0
    # The first tap has |F - B|² = 25, the others 0.
    gaps = log_gaps(network, frame)
    np.testing.assert_allclose(gaps[0], [np.log(25 + 1e-6)] + [np.log(1e-6)] * 8)


def test_a_release_with_dp_projects_clips_and_noises_as_the_definition_says() -> None:
    layout = TapLayout(("narrow", "wide"), (4, 64))
    frames = np.random.default_rng(0).normal(size=(4, layout.size)) * 10
    release = DpRelease(layout, images=2, seed=0)
    vectors = release.vectors(frames)
    # The narrow tap is left as it is, the wide one has 16 dimensions; both F and B.
    assert vectors.shape == (4, 2 * (4 + DIMENSIONS))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0)
    sent = release.released(vectors, [[0, 3]] * 500)
    # σ R / n̄ = 1 · 1 / 2 about (v_0 + v_3) / 2.
    about = (vectors[0] + vectors[3]) / 2
    np.testing.assert_allclose(sent.mean(0), about, atol=0.1)
    assert (sent - about).std() == pytest.approx(0.5, rel=0.02)
    assert (release.released(vectors, [[0]] * 500, times=4) - vectors[0] / 2).std() == (
        pytest.approx(0.25, rel=0.02)
    )


def test_shrunk_masks_keep_every_foreground_pixel() -> None:
    small = shrunk(images(1), 8)
    assert small.image.shape == small.mask.shape == (1, 1, 8, 8)
    assert small.mask.sum() == 4
    assert small.image.mean().item() == pytest.approx(images(1).image.mean().item(), rel=1e-5)

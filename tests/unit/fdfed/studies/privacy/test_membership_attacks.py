"""Membership scores are higher for members where they must be, and chance where nothing is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fdfed.losses import segmentation_loss
from fdfed.networks import create_network
from fdfed.studies.privacy.federation import (
    CLIP,
    Hospital,
    clipped_sum,
    gradients_of,
    hospitals_of,
    watched_rounds,
)
from fdfed.studies.privacy.membership import loss_scores, release_scores, update_scores
from fdfed.studies.privacy.setting import Images, Setting

NETWORK = create_network("unet", in_channels=1, width=2, norm="group", size=16).eval()


def images(count: int, patients: list[str] | None = None) -> Images:
    rng = torch.Generator().manual_seed(0)
    mask = torch.zeros(count, 1, 16, 16)
    mask[..., :6, :6] = 1
    names = patients or [f"site/{i}" for i in range(count)]
    return Images(torch.rand(count, 1, 16, 16, generator=rng), mask, tuple(names))


def test_a_loss_score_is_the_negative_loss_of_the_image_by_itself() -> None:
    some = images(2)
    expected = [
        -segmentation_loss(NETWORK(x[None]), y[None]).item()
        for x, y in zip(some.image, some.mask, strict=True)
    ]
    assert loss_scores(NETWORK, some) == pytest.approx(expected, rel=1e-5)


def test_a_step_on_an_image_points_at_that_image() -> None:
    gradients = gradients_of(NETWORK, images(3))
    scores = update_scores([-0.1 * gradients[1]], [gradients])
    assert scores[1] == pytest.approx(1.0, abs=1e-5)
    assert scores.argmax() == 1


def test_update_scores_are_the_mean_cosine_over_rounds_worked_by_hand() -> None:
    gradient = np.array([[-1.0, 0.0], [0.0, 2.0]], dtype=np.float32)
    updates = [np.array([3.0, 4.0], np.float32), np.array([0.0, 1.0], np.float32)]
    # cos((3, 4), (1, 0)) = 0.6 and 0; cos((3, 4), (0, -2)) = -0.8 and -1.
    assert update_scores(updates, [gradient] * 2) == pytest.approx([0.3, -0.9])


def test_a_release_of_one_image_names_it() -> None:
    rng = np.random.default_rng(0)
    candidates, proxies = rng.normal(size=(6, 20)), rng.normal(size=(50, 20))
    scores = release_scores(candidates[:2], candidates, proxies)
    assert scores[:2] == pytest.approx([1.0, 1.0])
    assert scores[2:].max() < 0.95


def test_a_release_that_says_nothing_gives_every_candidate_one_score() -> None:
    zeros = np.zeros((5, 1))
    assert not release_scores(zeros[:2], zeros, zeros).any()


def test_every_gradient_is_clipped_by_itself() -> None:
    some = images(2)
    rows = gradients_of(NETWORK, some)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    expected = (rows * np.minimum(1, CLIP / norms)).sum(0)
    np.testing.assert_allclose(clipped_sum(NETWORK, some), expected, atol=1e-6)
    assert not clipped_sum(NETWORK, some.take([])).any()


def test_a_hospital_has_whole_patients_and_shows_every_image_once_an_epoch() -> None:
    members = images(9, ["a"] * 2 + ["b"] * 3 + ["c"] * 2 + ["d"] * 2)
    parts = hospitals_of(Setting(members=9), members, augment=False)
    owners = [set(part.images.patients) for part in parts]
    assert sum(map(len, owners)) == 4
    assert sum(len(part.images) for part in parts) == 9
    hospital = Hospital(images(6), batch_size=2, seed=0)
    seen = [hospital.training_patients(step) for step in range(3)]
    assert sorted(name for batch in seen for name in batch) == sorted(images(6).patients)
    assert hospital.training_batch(1)[0].equal(hospital.training_batch(1)[0])


def test_the_last_round_is_watched() -> None:
    assert watched_rounds(Setting(rounds=40, watched=8), 40) == (5, 10, 15, 20, 25, 30, 35, 40)
    assert watched_rounds(Setting(rounds=40, watched=8), 3) == (1, 2, 3)

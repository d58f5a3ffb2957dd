"""Crops are squares of an image at its own resolution, and a function of (seed, site, step)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from fdfed.data import SiteData, load_image, open_site, pool_sites


def opened(folder: Path, *, crop: int, site: str = "site", augment: bool = False) -> SiteData:
    return open_site(
        site, folder, size=16, in_channels=1, seed=0, batch_size=3, augment=augment, crop=crop
    )


@pytest.fixture
def gradient_dir(tmp_path: Path, write_case) -> Path:  # type: ignore[no-untyped-def]
    """Five pictures of 24 x 40 px in which every pixel has its own level or position."""
    rows, columns = np.indices((24, 40))
    for number, letter in enumerate("abcde"):
        image = ((rows * 5 + columns * 3 + number * 7) % 256).astype(np.uint8)
        mask = ((rows // 4 + columns // 4) % 2 * 255).astype(np.uint8)
        write_case(tmp_path / "site", letter, image=image, mask=mask)
    return tmp_path


def test_a_crop_is_found_unchanged_in_its_image_and_its_mask_lies_on_it(
    gradient_dir: Path,
) -> None:
    site = opened(gradient_dir, crop=16)
    for step in range(4):
        images, masks = site.training_batch(step)
        assert images.shape == (3, 1, 16, 16)
        for image, mask in zip(images, masks, strict=True):
            places = [
                (
                    sample["image"][:, i : i + 16, j : j + 16],
                    sample["mask"][:, i : i + 16, j : j + 16],
                )
                for sample in (site.samples[index] for index in range(5))
                for i in range(24 - 16 + 1)
                for j in range(40 - 16 + 1)
            ]
            assert any(torch.equal(image, a) and torch.equal(mask, b) for a, b in places)


def test_crops_repeat_for_a_step_and_differ_between_steps_and_seeds(gradient_dir: Path) -> None:
    site = opened(gradient_dir, crop=16)
    first = site.training_batch(2)[0]
    assert torch.equal(first, opened(gradient_dir, crop=16).training_batch(2)[0])
    assert not torch.equal(first, site.training_batch(3)[0])
    assert not torch.equal(first, dataclasses.replace(site, seed=1).training_batch(2)[0])


def test_every_position_is_drawn(gradient_dir: Path) -> None:
    # 23 of 24 rows: two row positions. Columns: 18 positions. Both ends must come up.
    site = opened(gradient_dir, crop=23)
    mask = torch.zeros(1, 24, 40)
    rng = np.random.default_rng(0)
    windows = [site.window(mask, rng) for _ in range(300)]
    assert {window[1].start for window in windows} == {0, 1}
    assert {window[2].start for window in windows} == set(range(40 - 23 + 1))


def test_evaluation_sees_whole_images_at_their_own_size_one_by_one(gradient_dir: Path) -> None:
    site = opened(gradient_dir, crop=16)
    batches = [batch for part in site.parts for batch in site.evaluation_batches(part)]
    assert len(batches) == 5
    assert all(image.shape == mask.shape == (1, 1, 24, 40) for image, mask, _ in batches)


def test_only_an_image_smaller_than_the_crop_is_enlarged_and_keeps_its_aspect(
    gradient_dir: Path,
) -> None:
    # 24 x 40 with crop 36: scaled by 36 / 24 = 1.5 to 36 x 60.
    site = opened(gradient_dir, crop=36)
    assert site.samples[0]["image"].shape == site.samples[0]["mask"].shape == (1, 36, 60)
    assert site.training_batch(0)[0].shape == (3, 1, 36, 36)
    path = site.all_cases[0].image
    assert torch.equal(load_image(path, size=16, in_channels=1, crop=36), site.samples[0]["image"])


def test_sites_with_images_of_different_sizes_can_be_pooled_by_crop(phantom_dir: Path) -> None:
    sites = [opened(phantom_dir, crop=16, site=name) for name in ("tnbc", "busuclm")]
    pooled = pool_sites(sites)
    assert pooled.training_batch(0)[0].shape == (3, 1, 16, 16)

"""Near-duplicates: what changes a picture without making it another one, and what does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fdfed.data.near_duplicates import THRESHOLD, near_duplicates, thumbnail


def picture(seed: int, *, side: int = 96) -> np.ndarray:
    """Blobs of several sizes, `(side, side, 1)` in [0, 1]."""
    rng = np.random.default_rng(seed)
    levels = np.zeros((side, side))
    for cells in (3, 6, 12):
        small = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        levels += np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
    return ((levels - levels.min()) / np.ptp(levels)).astype(np.float32)[..., None]


def pairs(*pictures: np.ndarray, threshold: float = THRESHOLD) -> set[tuple[int, int]]:
    found = near_duplicates(np.stack([thumbnail(p) for p in pictures]), threshold=threshold)
    assert all(pair.first < pair.second for pair in found)
    return {(pair.first, pair.second) for pair in found}


def test_a_thumbnail_has_mean_zero_and_length_one() -> None:
    thumb = thumbnail(picture(0))
    assert thumb.shape == (32, 32)
    assert abs(float(thumb.sum())) < 1e-4
    assert float((thumb**2).sum()) == pytest.approx(1)


def test_the_correlation_is_that_of_numpy() -> None:
    # At 32 pixels nothing is resized.
    first, second = picture(1, side=32), picture(2, side=32)
    mixed = (first + second) / 2
    (pair,) = near_duplicates(np.stack([thumbnail(first), thumbnail(mixed)]), threshold=0.1)
    expected = np.corrcoef(first.ravel(), mixed.ravel())[0, 1]
    assert pair.correlation == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turned_or_mirrored_copy_is_found(turns: int, mirrored: bool) -> None:
    copy = np.rot90(picture(3), turns)
    copy = copy[:, ::-1] if mirrored else copy
    assert pairs(picture(3), picture(4), np.ascontiguousarray(copy)) == {(0, 2)}


def test_brightness_size_colour_noise_and_cropping_by_little_do_not_hide_a_copy() -> None:
    original = picture(5)
    rng = np.random.default_rng(0)
    small = np.asarray(Image.fromarray(original[..., 0]).resize((61, 70)))[..., None]
    copies = (
        0.2 + 0.5 * original,
        small,
        np.repeat(original, 3, axis=2),
        np.clip(original + rng.normal(0, 0.05, original.shape), 0, 1).astype(np.float32),
        original[1:-1, 1:-1],
    )
    for copy in copies:
        assert pairs(original, copy) == {(0, 1)}


@given(seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=20)
def test_two_pictures_that_have_nothing_in_common_are_no_pair(seed: int) -> None:
    assert pairs(picture(seed), picture(seed + 1)) == set()


def test_pictures_of_one_level_are_like_nothing() -> None:
    grey, white = np.full((40, 40, 1), 0.5, np.float32), np.ones((40, 40, 1), np.float32)
    assert pairs(grey, grey, white) == set()
    assert not thumbnail(grey).any()


def test_the_most_alike_come_first_and_every_pair_once() -> None:
    original = picture(6)
    noise = np.random.default_rng(1).normal(0, 0.1, original.shape).astype(np.float32)
    thumbs = np.stack([thumbnail(p) for p in (original + noise, picture(7), original, original)])
    found = near_duplicates(thumbs)
    assert [(pair.first, pair.second) for pair in found] == [(2, 3), (0, 2), (0, 3)]
    assert found[0].correlation == pytest.approx(1)


def test_many_pictures_are_compared_block_by_block_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    thumbs = np.stack([thumbnail(picture(seed % 9)) for seed in range(20)])
    whole = near_duplicates(thumbs)
    monkeypatch.setattr("fdfed.data.near_duplicates._BLOCK", 3)
    in_blocks = near_duplicates(thumbs)
    assert {p[:2] for p in in_blocks} == {p[:2] for p in whole}
    assert {p[:2] for p in whole} == {(i, i + 9) for i in range(11)} | {(0, 18), (1, 19)}


def test_none_and_one_picture_have_no_pair() -> None:
    assert near_duplicates(np.zeros((0, 32, 32), np.float32)) == []
    assert near_duplicates(thumbnail(picture(0))[None]) == []

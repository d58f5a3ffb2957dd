"""From file to tensor: axes, levels, resizing, and agreement of training with prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fdfed.data import Case, image_size, load_image
from fdfed.data.loading import loading_chain, resize_image, resize_mask, to_channels
from fdfed.errors import DataError, InvalidInput


def test_nothing_is_transposed_from_file_to_tensor(tmp_path: Path) -> None:
    wide = np.zeros((8, 16), dtype=np.uint8)
    wide[:4, :8] = 255  # the top left quarter
    for part in ("image", "mask"):
        Image.fromarray(wide).save(tmp_path / f"{part}.png")
    chain = loading_chain(("image", "mask"), size=4, in_channels=1)
    case = Case("a", tmp_path / "image.png", tmp_path / "mask.png", "a")
    loaded = chain({"image": case.load_image, "mask": case.load_mask})
    expected = torch.zeros(1, 4, 4)
    expected[:, :2, :2] = 1
    torch.testing.assert_close(loaded["mask"], expected)
    assert loaded["image"][0, 0, 0] == 1
    assert loaded["image"][0, 0, 3] == loaded["image"][0, 3, 0] == 0
    wide[4:, :8] = 255  # the left half: a transposed picture would be bright on top
    Image.fromarray(wide).save(tmp_path / "image.png")
    image = load_image(tmp_path / "image.png", size=4, in_channels=1)[0]
    assert bool((image[:, 0] == 1).all())
    assert bool((image[:, 3] == 0).all())


@pytest.mark.parametrize("in_channels", [1, 3])
def test_prediction_sees_the_same_tensor_as_training(tmp_path: Path, in_channels: int) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (21, 13, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    chain = loading_chain(("image",), size=16, in_channels=in_channels)
    case = Case("a", tmp_path / "a.png", tmp_path / "a.png", "a")
    trained = chain({"image": case.load_image})["image"]
    predicted = load_image(tmp_path / "a.png", size=16, in_channels=in_channels)
    assert trained.shape == (in_channels, 16, 16)
    assert type(trained) is torch.Tensor
    assert trained.dtype == predicted.dtype == torch.float32
    torch.testing.assert_close(trained, predicted, rtol=0, atol=0)


def test_colour_becomes_grey_by_the_broadcast_weights() -> None:
    # 0.299 * 1 + 0.587 * 0.5 + 0.114 * 0 = 0.5925
    image = torch.tensor([1.0, 0.5, 0.0])[:, None, None]
    torch.testing.assert_close(to_channels(image, 1), torch.full((1, 1, 1), 0.5925))


def test_grey_becomes_three_equal_channels() -> None:
    image = torch.rand(1, 2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_channels(image, 3), torch.cat([image] * 3))


def test_resizing_agrees_with_pillow() -> None:
    rng = np.random.default_rng(0)
    levels = rng.random((37, 53)).astype(np.float32)
    ours = resize_image(torch.from_numpy(levels)[None], shape=(16, 16))[0].numpy()
    oracle = Image.fromarray(levels).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(ours, np.asarray(oracle), atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(height=st.integers(2, 50), width=st.integers(2, 50), size=st.integers(2, 40))
def test_a_constant_picture_stays_constant_up_to_its_border(
    height: int, width: int, size: int
) -> None:
    resized = resize_image(torch.full((1, height, width), 0.7), shape=(size, size))
    torch.testing.assert_close(resized, torch.full((1, size, size), 0.7))


@settings(deadline=None, max_examples=30)
@given(factor=st.integers(2, 7), seed=st.integers(0, 1000))
def test_a_resized_mask_takes_the_pixel_at_the_centre(factor: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    mask = (torch.rand(1, 5 * factor, 5 * factor, generator=rng) > 0.5).float()
    # The centre of an output pixel lies factor/2 input pixels in; floor gives the pixel there.
    middle = factor // 2
    assert torch.equal(resize_mask(mask, shape=(5, 5)), mask[:, middle::factor, middle::factor])


def test_image_and_mask_stay_registered_when_they_shrink() -> None:
    at = torch.arange(24, dtype=torch.float32)
    apart = []
    for offset in range(4):  # over all phases of the coarse grid, rounding averages out
        band = torch.zeros(1, 96, 96)
        band[:, 20 + offset : 50 + offset] = 1
        image, mask = (
            resize(band, shape=(24, 24))[0, :, 0] for resize in (resize_image, resize_mask)
        )
        apart.append(float((image * at).sum() / image.sum() - (mask * at).sum() / mask.sum()))
    # 1/8: half an input pixel. Plain `nearest` would be 3/8 off.
    assert abs(float(np.mean(apart))) < 0.15


def test_the_original_size_is_kept_for_predictions(tmp_path: Path) -> None:
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    assert image_size(tmp_path / "a.png") == (20, 30)


def test_an_unreadable_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"a\.png: cannot be opened"):
        load_image(tmp_path / "a.png", size=8, in_channels=1)
    with pytest.raises(DataError, match=r"a\.png: cannot be opened"):
        image_size(tmp_path / "a.png")


@pytest.mark.parametrize(("size", "in_channels"), [(0, 1), (8, 2)])
def test_impossible_sizes_and_channels_are_refused(
    tmp_path: Path, size: int, in_channels: int
) -> None:
    with pytest.raises(InvalidInput, match="1 or 3"):
        load_image(tmp_path / "a.png", size=size, in_channels=in_channels)

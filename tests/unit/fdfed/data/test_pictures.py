"""Which image and mask files are read, and what their pixels become."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.image_reader import PILReader
from PIL import Image

from fdfed.data.pictures import picture_size, read_image, read_mask
from fdfed.data.unusable import UnusablePicture

TALL = np.arange(6, dtype=np.uint8).reshape(3, 2) * 40  # rows 0 40 / 80 120 / 160 200


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_lossless_formats_give_the_same_pixels_upright(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(TALL).save(path)
    pixels = read_image(path)
    assert pixels.shape == (3, 2, 1)
    assert pixels.dtype == np.float32
    # 160/255 stands at row 2, column 0: nothing is transposed.
    np.testing.assert_allclose(pixels[2, 0], 160 / 255, rtol=1e-6)
    np.testing.assert_array_equal(pixels[..., 0], TALL.astype(np.float32) / np.float32(255))


def test_a_jpeg_is_read_to_within_its_compression(tmp_path: Path) -> None:
    smooth = np.tile(np.linspace(0, 255, 32, dtype=np.uint8), (16, 1))
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg")[..., 0] - smooth / 255).max() < 0.03


def test_colour_pixels_agree_with_monais_reader_once_its_axes_are_swapped_back(
    tmp_path: Path,
) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    reader = PILReader()
    oracle, _ = reader.get_data(reader.read(tmp_path / "a.png"))
    np.testing.assert_allclose(
        read_image(tmp_path / "a.png"), np.moveaxis(oracle, 0, 1) / 255, rtol=1e-6
    )


def test_rgb_with_equal_channels_is_grey(tmp_path: Path) -> None:
    Image.fromarray(np.stack([TALL] * 3, axis=-1)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (3, 2, 1)


@pytest.mark.parametrize("alpha", [0, 255])
def test_a_constant_alpha_is_dropped(tmp_path: Path, alpha: int) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 3, 4), dtype=np.uint8)
    colours[..., 3] = alpha
    Image.fromarray(colours).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), colours[..., :3] / 255, rtol=1e-6)


def test_an_alpha_that_varies_is_refused(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 3, 4), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    with pytest.raises(UnusablePicture, match=r"transparent.*flatten"):
        read_image(tmp_path / "a.png")


def test_sixteen_bits_are_scaled_to_one(tmp_path: Path) -> None:
    levels = np.array([[0, 65535], [32768, 4096]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_image(tmp_path / "a.png")[..., 0], levels / 65535, rtol=1e-6)


def test_twelve_bits_in_sixteen_are_refused_because_they_would_be_black(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 3), 4095, dtype=np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(UnusablePicture, match=r"12 bits.*scale"):
        read_image(tmp_path / "a.png")


def test_a_palette_image_is_read_by_its_colours(tmp_path: Path) -> None:
    colours = np.zeros((4, 4, 3), dtype=np.uint8)
    colours[:2] = (200, 10, 30)
    Image.fromarray(colours).quantize(4).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), colours / 255, atol=1e-6)


def test_cmyk_is_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4)).save(tmp_path / "a.jpg")
    with pytest.raises(UnusablePicture, match=r"mode CMYK.*RGB"):
        read_image(tmp_path / "a.jpg")


def test_a_picture_that_is_shown_turned_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(TALL).save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(UnusablePicture, match=r"EXIF orientation 6.*turn the pixels"):
        read_image(tmp_path / "a.jpg")


def test_a_tiff_of_several_pages_is_refused(tmp_path: Path) -> None:
    page = Image.fromarray(TALL)
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    with pytest.raises(UnusablePicture, match="holds 2 pictures"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_file_cut_short_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnusablePicture, match=r"damaged or cut short|cannot be opened"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnusablePicture, match="cannot be opened as an image"):
        read_image(tmp_path / "a.png")


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "TIFF", "BMP"]),
    place=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
    cut=st.booleans(),
)
def test_broken_bytes_give_pixels_or_our_own_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, place: float, byte: int, cut: bool
) -> None:
    stream = io.BytesIO()
    Image.fromarray(TALL.repeat(4, 0).repeat(5, 1)).save(stream, format=kind)
    content = bytearray(stream.getvalue())
    index = int(place * len(content))
    content[index] = byte
    path = tmp_path_factory.getbasetemp() / "broken.png"
    path.write_bytes(content[:index] if cut else content)
    for read in (read_image, read_mask):
        with contextlib.suppress(UnusablePicture):
            read(path)


def test_other_decoders_are_never_tried(tmp_path: Path) -> None:
    Image.fromarray(TALL).save(tmp_path / "a.gif")
    (tmp_path / "a.gif").rename(tmp_path / "a.png")
    with pytest.raises(UnusablePicture, match="none of PNG, JPEG, TIFF, BMP"):
        read_image(tmp_path / "a.png")


MASK = np.array([[0, 1, 0], [0, 1, 1]], dtype=bool)


@pytest.mark.parametrize(
    "levels",
    [
        MASK,
        MASK.astype(np.uint8),
        MASK.astype(np.uint8) * np.uint8(255),
        MASK.astype(np.uint16) * np.uint16(65535),
        np.stack([MASK.astype(np.uint8) * np.uint8(255)] * 3, axis=-1),
    ],
    ids=["1-bit", "0/1", "0/255", "16-bit", "RGB"],
)
def test_every_way_to_write_two_values_gives_one_mask(tmp_path: Path, levels: np.ndarray) -> None:
    Image.fromarray(levels).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png")
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, MASK)


def test_an_empty_mask_is_a_mask(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((3, 3), dtype=np.uint8)).save(tmp_path / "m.png")
    assert not read_mask(tmp_path / "m.png").any()


@pytest.mark.parametrize("quality", [75, 95])
def test_a_jpeg_mask_is_cut_at_the_middle(tmp_path: Path, quality: int) -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[16:40, 8:48] = True
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(tmp_path / "m.jpg", quality=quality)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.jpg"), mask)


def test_a_jpeg_mask_of_zero_and_one_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), dtype=np.uint8)).save(tmp_path / "m.jpg")
    with pytest.raises(UnusablePicture, match="not close to black and white"):
        read_mask(tmp_path / "m.jpg")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_mask_with_grey_levels_is_refused(tmp_path: Path, suffix: str) -> None:
    ramp = np.tile(np.linspace(0, 255, 32, dtype=np.uint8), (16, 1))
    Image.fromarray(ramp).save(tmp_path / f"m.{suffix}")
    with pytest.raises(UnusablePicture, match=r"levels.*swap them"):
        read_mask(tmp_path / f"m.{suffix}")


def test_a_colour_mask_is_refused(tmp_path: Path) -> None:
    colours = np.zeros((4, 4, 3), dtype=np.uint8)
    colours[1:3, 1:3] = (255, 0, 0)
    Image.fromarray(colours).save(tmp_path / "m.png")
    with pytest.raises(UnusablePicture, match="colour picture"):
        read_mask(tmp_path / "m.png")


def test_two_values_that_are_neither_one_nor_white_are_refused(tmp_path: Path) -> None:
    Image.fromarray(MASK.astype(np.uint8) * np.uint8(128)).save(tmp_path / "m.png")
    with pytest.raises(UnusablePicture, match="2 levels from 0 to 128"):
        read_mask(tmp_path / "m.png")


def test_the_size_is_height_by_width(tmp_path: Path) -> None:
    Image.fromarray(TALL).save(tmp_path / "a.png")
    assert picture_size(tmp_path / "a.png") == (3, 2)

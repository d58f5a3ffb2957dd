"""Masks, overlays and the table for new images."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from torch import Tensor

from fdfed.errors import DataError, InvalidInput
from fdfed.evaluation import whole_image
from fdfed.evaluation.prediction import (
    OUTLINE,
    Prediction,
    Unreadable,
    find_images,
    overlay,
    predict_images,
    probabilities,
    write_predictions,
)
from fdfed.networks import SegmentationNetwork
from fdfed.networks.base import Tap, TapSink
from fdfed.training.model_file import ModelHeader

CPU = torch.device("cpu")
HEADER = ModelHeader(network="unet", norm="group", in_channels=1, size=16, taps=("Bot",))


class Bright(SegmentationNetwork):
    """Calls bright pixels foreground: logit 20 (x - 1/2)."""

    paper_width = 1

    def __init__(self) -> None:
        taps = {"Bot": Tap(1, 1)}
        super().__init__(in_channels=1, norm="group", taps=taps, size_multiple=1, size=None)

    def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
        return 20 * (image - 0.5)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def load(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def half_bright(height: int, width: int) -> np.ndarray:
    """Black, with the left half white."""
    pixels = np.zeros((height, width), dtype=np.uint8)
    pixels[:, : width // 2] = 255
    return pixels


def predict(folder: Path, out: Path, threshold: float = 0.5) -> list[Prediction | Unreadable]:
    paths = find_images(folder, out)
    return list(
        predict_images(Bright().eval(), HEADER, paths, out, device=CPU, threshold=threshold)
    )


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.PNG"])
def test_each_image_gets_a_mask_and_an_overlay_of_its_own_size(tmp_path: Path, name: str) -> None:
    save(tmp_path / "in" / name, half_bright(24, 40))
    (row,) = predict(tmp_path / "in", tmp_path / "out")
    assert isinstance(row, Prediction)
    mask = load(tmp_path / "out" / "masks" / "a.png")
    assert mask.shape == (24, 40)
    assert set(np.unique(mask)) == {0, 255}
    # Resizing to 16 px and back blurs the edge by at most two of the 40 columns.
    assert (mask[:, :18] == 255).all()
    assert (mask[:, 22:] == 0).all()
    assert load(tmp_path / "out" / "overlays" / "a.png").shape == (24, 40, 3)
    assert (row.width, row.height) == (40, 24)
    assert row.foreground_pixels == (mask == 255).sum()
    assert row.foreground_share == row.foreground_pixels / (24 * 40)
    assert row.mean_probability_in_foreground is not None
    assert row.mean_probability_in_foreground > 0.9


def test_a_higher_threshold_finds_less(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    save(tmp_path / "in" / "ramp.png", ramp)
    found = []
    for threshold in (0.1, 0.5, 0.9):
        (row,) = predict(tmp_path / "in", tmp_path / "out", threshold)
        assert isinstance(row, Prediction)
        found.append(row.foreground_pixels)
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 3


def test_an_image_without_finding_has_no_mean_probability(tmp_path: Path) -> None:
    save(tmp_path / "in" / "dark.png", np.zeros((20, 20), dtype=np.uint8))
    (row,) = predict(tmp_path / "in", tmp_path / "out")
    assert isinstance(row, Prediction)
    assert (row.foreground_pixels, row.mean_probability_in_foreground) == (0, None)
    assert not load(tmp_path / "out" / "masks" / "dark.png").any()


def test_an_unreadable_file_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", half_bright(20, 20))
    (tmp_path / "in" / "b.png").write_text("no image")
    save(tmp_path / "in" / "c.png", half_bright(20, 20))
    first, second, third = predict(tmp_path / "in", tmp_path / "out")
    assert isinstance(first, Prediction)
    assert isinstance(second, Unreadable)
    assert "b.png" in second.reason
    assert isinstance(third, Prediction)
    assert {path.name for path in (tmp_path / "out" / "masks").iterdir()} == {"a.png", "c.png"}


@pytest.mark.parametrize("out", [".", "masks", "masks/deeper", ".."])
def test_results_are_never_written_among_the_images(tmp_path: Path, out: str) -> None:
    save(tmp_path / "in" / "a.png", half_bright(20, 20))
    with pytest.raises(InvalidInput, match="Give --out a folder of its own"):
        find_images(tmp_path / "in", tmp_path / "in" / out)


def test_a_link_to_the_input_folder_is_seen_through(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", half_bright(20, 20))
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(InvalidInput, match="lie one in the other"):
        find_images(tmp_path / "in", tmp_path / "link" / "out")


def test_two_images_that_would_share_a_mask_are_refused(tmp_path: Path) -> None:
    for name in ("scan.png", "SCAN.bmp"):
        save(tmp_path / "in" / name, half_bright(20, 20))
    with pytest.raises(DataError, match=r"SCAN\.bmp and scan\.png .* would both become"):
        find_images(tmp_path / "in", tmp_path / "out")


def test_other_files_folders_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "in" / "b.png", half_bright(20, 20))
    save(tmp_path / "in" / "a.png", half_bright(20, 20))
    (tmp_path / "in" / "notes.txt").write_text("")
    (tmp_path / "in" / "._a.png").write_text("")
    (tmp_path / "in" / "folder.png").mkdir()
    found = find_images(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in found] == ["a.png", "b.png"]


def test_a_folder_without_images_and_no_folder_at_all_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=r"holds no .*\.png"):
        find_images(tmp_path / "in", tmp_path / "out")
    with pytest.raises(DataError, match="is not a folder"):
        find_images(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, math.nan])
def test_a_threshold_that_is_no_probability_is_refused(tmp_path: Path, threshold: float) -> None:
    save(tmp_path / "in" / "a.png", half_bright(20, 20))
    with pytest.raises(InvalidInput, match="above 0 and below 1"):
        predict(tmp_path / "in", tmp_path / "out", threshold)


def test_probabilities_at_the_models_own_size_are_the_sigmoid_of_the_logits() -> None:
    image = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = probabilities(Bright(), image, height=16, width=16)
    expected = 1 / (1 + torch.exp(-20 * (image[0].double() - 0.5)))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-7)


def test_a_model_that_answers_with_nan_is_refused() -> None:
    with pytest.raises(InvalidInput, match="answers with NaN"):
        probabilities(Bright(), torch.full((1, 16, 16), math.nan), height=16, width=16)


def test_an_overlay_changes_the_image_along_the_outline_only() -> None:
    image = np.full((40, 40, 1), 0.5, dtype=np.float32)
    probability = np.zeros((40, 40), dtype=np.float32)
    probability[10:30, 10:30] = 1
    drawn = overlay(image, probability, 0.5)
    assert (drawn == np.array(OUTLINE)).all(axis=-1).any()
    assert (drawn[15:25, 15:25] == 128).all()
    assert (drawn[:7] == 128).all()


def test_predictions_csv_has_a_row_an_image(tmp_path: Path) -> None:
    row = Prediction("a.png", 40, 24, 3, 3 / 960, None, 0.25)
    write_predictions(tmp_path / "predictions.csv", [row])
    with (tmp_path / "predictions.csv").open(newline="") as file:
        (read,) = csv.DictReader(file)
    assert read == {
        "image": "a.png",
        "width": "40",
        "height": "24",
        "foreground_pixels": "3",
        "foreground_share": "0.003125",
        "mean_probability_in_foreground": "",
        "seconds": "0.250000",
    }


def test_a_study_of_dicom_files_without_suffixes_is_found_in_its_folders(tmp_path: Path) -> None:
    """As an archive exports one: folders of series, files named by their UID, and a DICOMDIR."""
    study = tmp_path / "study"
    names = ("DICOMDIR", "ct/1.2.840.1", "ct/1.2.840.2", "us/IM0001", "us/IM0002.dcm")
    for name in names:
        save_dicom(study / name, half_bright(20, 24))
    save(study / "us" / "shot.png", half_bright(20, 24))
    (study / "ct" / "notes").write_text("DICM")
    assert [path.name for path in find_images(study / "ct", tmp_path / "out")] == [
        "1.2.840.1",
        "1.2.840.2",
    ]
    paths = find_images(study, tmp_path / "out", recursive=True)
    rows = list(
        predict_images(
            Bright().eval(),
            HEADER,
            paths,
            tmp_path / "out",
            device=CPU,
            threshold=0.5,
            root=study,
        )
    )
    assert [row.image for row in rows] == [
        *("ct/1.2.840.1", "ct/1.2.840.2", "us/IM0001", "us/IM0002.dcm", "us/shot.png"),
    ]
    masks = tmp_path / "out" / "masks"
    assert sorted(str(path.relative_to(masks)) for path in masks.rglob("*.png")) == [
        *("ct/1.2.840.1.png", "ct/1.2.840.2.png"),
        *("us/IM0001.png", "us/IM0002.png", "us/shot.png"),
    ]
    for path in masks.rglob("*.png"):
        assert load(path).mean() == pytest.approx(255 / 2, abs=20)


def save_dicom(path: Path, pixels: np.ndarray) -> None:
    """A secondary capture of 8-bit grey levels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation, dataset.PixelData = 0, pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def test_an_image_that_is_larger_than_a_tile_is_segmented_at_its_own_resolution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of crops: lines of a single pixel survive, which any resizing would blur away."""
    monkeypatch.setattr(whole_image, "WINDOW", 32)
    pixels = np.zeros((90, 130), dtype=np.uint8)
    pixels[::2] = 255
    save(tmp_path / "in" / "large.png", pixels)
    seen: list[tuple[int, ...]] = []

    class Tiled(Bright):
        def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
            seen.append(tuple(image.shape[-2:]))
            return super()._forward(image, taps)

    header = HEADER.model_copy(update={"crop": 16})
    paths = find_images(tmp_path / "in", tmp_path / "out")
    (row,) = predict_images(
        Tiled().eval(), header, paths, tmp_path / "out", device=CPU, threshold=0.5
    )
    assert isinstance(row, Prediction)
    assert set(seen) == {(32, 32)}
    np.testing.assert_array_equal(load(tmp_path / "out" / "masks" / "large.png"), pixels)

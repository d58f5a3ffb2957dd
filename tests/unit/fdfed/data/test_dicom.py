"""DICOM as pictures: levels by hand, pydicom's own files, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from fdfed.data import check_site_folder, load_image
from fdfed.data.dicom import dicom_patient, dicom_size, pixel_spacing
from fdfed.data.pictures import picture_size, read_image, read_mask
from fdfed.data.unusable import UnusablePicture

Write = Callable[..., Path]

LEVELS = np.array([[0, 10, 20], [30, 40, 50]], dtype=np.uint16)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A secondary capture of grey levels; keywords set or replace attributes, None removes one."""

    def written(
        levels: np.ndarray = LEVELS, name: str = "a.dcm", folder: Path = tmp_path, **attributes: Any
    ) -> Path:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        colour = levels.ndim == 3 and levels.shape[-1] == 3
        bits = 8 * levels.dtype.itemsize
        values = {
            "SOPClassUID": meta.MediaStorageSOPClassUID,
            "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "Rows": levels.shape[-3 if colour else -2],
            "Columns": levels.shape[-2 if colour else -1],
            "SamplesPerPixel": 3 if colour else 1,
            "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
            "BitsAllocated": bits,
            "BitsStored": bits,
            "HighBit": bits - 1,
            "PixelRepresentation": int(levels.dtype.kind == "i"),
            "PixelData": levels.tobytes(),
        }
        if colour:
            values["PlanarConfiguration"] = 0
        for keyword, value in (values | attributes).items():
            if value is not None:
                setattr(dataset, keyword, value)
        dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
        dataset.save_as(path, enforce_file_format=True)
        return path

    return written


def test_without_a_window_all_levels_of_the_stored_bits_are_shown(write: Write) -> None:
    # 8 bits stored in 16: 255 is white.
    pixels = read_image(write(BitsStored=8, HighBit=7))
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[..., 0], LEVELS / 255, rtol=1e-6)


def test_a_window_is_applied_as_the_standard_says(write: Write) -> None:
    # PS3.3, C.11.2.1.2.1, c = 25 and w = 21: black up to 14.5, white above 34.5, and between them
    # (x - 24.5) / 20 + 0.5: 20 → 0.275 and 30 → 0.775.
    pixels = read_image(write(WindowCenter=25, WindowWidth=21))[..., 0]
    np.testing.assert_allclose(pixels, [[0, 0, 0.275], [0.775, 1, 1]], atol=1e-6)
    # LINEAR_EXACT, without the halves: (x - 25) / 20 + 0.5.
    exact = read_image(write(WindowCenter=25, WindowWidth=20, VOILUTFunction="LINEAR_EXACT"))
    np.testing.assert_allclose(exact[..., 0], [[0, 0, 0.25], [0.75, 1, 1]], atol=1e-6)
    # SIGMOID: 1 / (1 + exp(-4 (x - c) / w)), 1/2 at the centre.
    soft = read_image(write(WindowCenter=20, WindowWidth=40, VOILUTFunction="SIGMOID"))[..., 0]
    np.testing.assert_allclose(soft, 1 / (1 + np.exp(-4 * (LEVELS - 20.0) / 40)), atol=1e-6)


def test_the_first_of_several_windows_is_taken(write: Write) -> None:
    one = read_image(write(WindowCenter=25, WindowWidth=21))
    several = read_image(write(name="b.dcm", WindowCenter=[25, 40], WindowWidth=[21, 5]))
    np.testing.assert_array_equal(one, several)


def test_monochrome_1_is_turned_over(write: Write) -> None:
    window = {"WindowCenter": 25, "WindowWidth": 21}
    dark = read_image(write(PhotometricInterpretation="MONOCHROME1", **window))
    np.testing.assert_allclose(dark, 1 - read_image(write(name="b.dcm", **window)), atol=1e-6)


@pytest.mark.parametrize(("slope", "intercept"), [(2.0, -30.0), (-1.0, 100.0)])
def test_the_window_sees_rescaled_values(write: Write, slope: float, intercept: float) -> None:
    values = LEVELS * slope + intercept
    centre, width = float(np.median(values)), 41.0
    pixels = read_image(
        write(
            RescaleSlope=slope, RescaleIntercept=intercept, WindowCenter=centre, WindowWidth=width
        )
    )
    expected = ((values - (centre - 0.5)) / (width - 1) + 0.5).clip(0, 1)
    np.testing.assert_allclose(pixels[..., 0], expected, atol=1e-6)


def test_a_negative_slope_alone_keeps_high_values_bright(write: Write) -> None:
    pixels = read_image(write(BitsStored=8, HighBit=7, RescaleSlope=-1, RescaleIntercept=255))
    np.testing.assert_allclose(pixels[..., 0], (255.0 - LEVELS) / 255, rtol=1e-6)


def test_signed_levels_are_shown_from_their_lowest(write: Write) -> None:
    levels = np.array([[-128, 0, 127]], dtype=np.int8)
    np.testing.assert_allclose(
        read_image(write(levels))[..., 0], [[0, 128 / 255, 1]], rtol=1e-6, atol=1e-7
    )


def test_a_table_is_looked_up_where_there_is_no_window(write: Write) -> None:
    item = Dataset()
    item.LUTDescriptor = [51, 0, 8]  # 51 entries from level 0, of 8 bits
    item.LUTData = [255 - 5 * level for level in range(51)]
    item["LUTData"].VR = "US"
    pixels = read_image(write(VOILUTSequence=[item]))
    np.testing.assert_allclose(pixels[..., 0], (255 - 5.0 * LEVELS) / 255, rtol=1e-6, atol=1e-7)


def test_colours_stay_colours(write: Write) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    np.testing.assert_allclose(read_image(write(colours)), colours / 255, rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "SC_rgb_rle.dcm"]
)
def test_files_of_pydicoms_own_tests_are_read_in_range(name: str) -> None:
    path = Path(get_testdata_file(name, download=False))
    pixels = read_image(path)
    assert pixels.shape[:2] == picture_size(path) == dicom_size(path)
    assert 0 <= pixels.min() < pixels.max() <= 1


def test_the_same_picture_as_dicom_and_png_is_the_same_to_a_network(
    write: Write, tmp_path: Path
) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (9, 12), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    tensors = [
        load_image(path, size=8, in_channels=3) for path in (write(levels), tmp_path / "a.png")
    ]
    np.testing.assert_allclose(tensors[0], tensors[1], atol=1e-6)


def test_several_frames_are_refused_with_what_to_do(write: Write) -> None:
    path = write(np.zeros((4, 3, 2), dtype=np.uint8), NumberOfFrames=4)
    for read in (read_image, read_mask, picture_size):
        with pytest.raises(UnusablePicture, match=r"holds 4 frames.*each annotated frame"):
            read(path)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"PhotometricInterpretation": "CMYK"}, "pixels of kind CMYK"),
        ({"PhotometricInterpretation": None}, "pixels of kind unknown"),
        ({"WindowCenter": 10, "WindowWidth": 0}, "window or table that cannot be applied"),
        ({"Rows": 60000, "Columns": 60000}, "claims to have 60000 x 60000"),
        ({"Rows": 7}, "cannot be decoded"),
        ({"Rows": None}, "holds no picture"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_what_is_wrong_with_it(
    write: Write, attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnusablePicture, match=message):
        read_image(write(**attributes))


@pytest.mark.parametrize("kept", [0, 100, 140, 400])
def test_broken_bytes_are_refused(write: Write, kept: int) -> None:
    path = write()
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UnusablePicture, match=r"is not a DICOM file|damaged|decoded"):
        read_image(path)


def test_a_picture_that_is_only_called_dicom_is_refused(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.dcm")
    with pytest.raises(UnusablePicture, match="is not a DICOM file"):
        read_image(tmp_path / "a.dcm")


@pytest.mark.parametrize("foreground", [1, 255])
def test_a_mask_of_two_levels_is_read(write: Write, foreground: int) -> None:
    mask = np.array([[0, 1], [1, 0]], dtype=np.uint8)
    np.testing.assert_array_equal(read_mask(write(mask * foreground)), mask == 1)
    assert not read_mask(write(mask * 0)).any()


def test_grey_levels_are_no_mask(write: Write) -> None:
    with pytest.raises(UnusablePicture, match="has 6 levels"):
        read_mask(write())


def test_spacing_is_in_millimetres_by_row_and_column(write: Write) -> None:
    assert pixel_spacing(write()) is None
    assert pixel_spacing(write(PixelSpacing=[0.2, 0.1])) == (0.2, 0.1)
    region = Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # cm
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.01, 0.02
    assert pixel_spacing(write(SequenceOfUltrasoundRegions=[region])) == pytest.approx((0.2, 0.1))
    # Two regions, such as image and Doppler: neither is the picture's.
    assert pixel_spacing(write(SequenceOfUltrasoundRegions=[region, region])) is None


def test_images_of_one_patient_id_stay_together_and_the_id_is_not_shown(
    write: Write, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    mask = np.zeros((2, 3), dtype=np.uint8)
    mask[0, 1] = 255
    (site / "masks").mkdir(parents=True)
    for name, patient in (("a", "4711"), ("b", "4711"), ("c", "0815")):
        levels = LEVELS + ord(name)
        write(levels, f"{name}.dcm", site / "images", PatientID=patient, PatientName="Doe^J")
        Image.fromarray(mask).save(site / "masks" / f"{name}.png")
    report = check_site_folder(site)
    assert report.findings == ()
    assert report.patients_known
    a, b, c = (case.patient for case in report.cases)
    assert a == b != c
    assert "4711" not in a
    assert a == dicom_patient(site / "images" / "a.dcm")
    # One image without an ID: nothing is known of it, and that is said.
    write(LEVELS, "c.dcm", site / "images", PatientID="")
    report = check_site_folder(site)
    assert not report.patients_known
    assert [case.patient for case in report.cases] == [a, a, "c"]
    # A table comes first.
    rows = "image,patient\na.dcm,p\nb.dcm,q\nc.dcm,r\n"
    (site / "patients.csv").write_text(rows)
    assert [case.patient for case in check_site_folder(site).cases] == ["p", "q", "r"]


def test_reading_draws_no_warning_and_changes_no_file(write: Write) -> None:
    path = write(WindowCenter=25, WindowWidth=21)
    before = path.read_bytes()
    read_image(path)
    assert path.read_bytes() == before
    assert pydicom.dcmread(path).WindowCenter == 25

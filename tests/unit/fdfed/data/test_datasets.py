"""Each data set in the layout in which its owners distribute it: tiny synthetic copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdfed.data import KNOWN_SITES, FolderReport, check_site_folder, open_site, write_phantoms
from fdfed.data.layouts import _READERS

SIDE = 16


def image(path: Path, number: int, *, colour: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (SIDE, SIDE, 3) if colour else (SIDE, SIDE)
    levels = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
    if path.suffix == ".png" and colour:
        # The TNBC archive has a constant alpha channel.
        levels = np.dstack([levels, np.full((SIDE, SIDE), 255, np.uint8)])
    Image.fromarray(levels).save(path)


def mask(path: Path, value: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.zeros((SIDE, SIDE), dtype=np.uint8)
    levels[4:9, 3:7] = value
    Image.fromarray(levels).save(path)


def outline(path: Path) -> None:
    """The square of `mask`: x from 3 to 7, y from 4 to 9."""
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = ((3, 4), (7, 4), (7, 9), (3, 9))
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in corners)
    path.write_text(
        f"<Annotations><Annotation><Regions><Region><Vertices>{vertices}</Vertices></Region>"
        "</Regions></Annotation></Annotations>"
    )


def tnbc(folder: Path) -> None:
    archive = folder / "TNBC_NucleiSegmentation"
    for number, (slide, tile) in enumerate([("01", 1), ("01", 2), ("02", 1), ("03", 1)]):
        image(archive / f"Slide_{slide}" / f"{slide}_{tile}.png", number)
        mask(archive / f"GT_{slide}" / f"{slide}_{tile}.png", (255, 7)[number % 2])
    (archive / "__MACOSX" / "Slide_01").mkdir(parents=True)
    (archive / "__MACOSX" / "Slide_01" / "._01_1.png").write_bytes(b"x")


def monuseg(folder: Path) -> None:
    training = folder / "MoNuSeg 2018 Training Data" / "MoNuSeg 2018 Training Data"
    for number, name in enumerate(("TCGA-18-5592-01Z-00-DX1", "TCGA-21-5784-01Z-00-DX1")):
        image(training / "Tissue Images" / f"{name}.tif", number)
        outline(training / "Annotations" / f"{name}.xml")
    test = folder / "MoNuSegTestData"
    for number, name in enumerate(("TCGA-2Z-A9J9-01A-01-TS1", "TCGA-18-5592-01Z-00-DX2"), 2):
        image(test / f"{name}.tif", number)
        outline(test / f"{name}.xml")


def udiat(folder: Path) -> None:
    for number in range(1, 5):
        image(folder / "BUS" / "original" / f"{number:06d}.png", number, colour=False)
        mask(folder / "BUS" / "GT" / f"{number:06d}.png")
    (folder / "BUS" / "DatasetB.xlsx").write_bytes(b"a table")


def us_tnbc(folder: Path) -> None:
    for number in range(4):
        image(folder / f"case {number}.png", number, colour=False)
        mask(folder / f"case {number}_mask.png")


def ad(folder: Path) -> None:
    number = 0
    for slide in ("new_wsi_00", "new_wsi_01"):
        for name in ("0.png", "0_C1.png"):
            for kind in ("patches", "macenko", "vahadane"):
                image(folder / "128x128" / slide / kind / name, number)
                number += 1
            mask(folder / "128x128" / slide / "masks" / name)


MAKERS = {"tnbc": tnbc, "monuseg": monuseg, "udiat": udiat, "us-tnbc": us_tnbc, "ad": ad}


def report_of(name: str, tmp_path: Path) -> FolderReport:
    MAKERS[name](tmp_path / name)
    return check_site_folder(tmp_path / name)


def test_every_data_set_that_is_read_has_a_copy_here_and_a_phantom() -> None:
    assert set(_READERS) == {"folder", *MAKERS}
    assert set(MAKERS) <= set(KNOWN_SITES)


@pytest.mark.parametrize("name", MAKERS)
def test_an_unpacked_archive_is_four_sound_cases_with_the_masks_as_they_were_drawn(
    tmp_path: Path, name: str
) -> None:
    report = report_of(name, tmp_path)
    assert report.findings == ()
    assert len(report.cases) == 4
    assert len({case.name for case in report.cases}) == 4
    expected = np.zeros((SIDE, SIDE), dtype=bool)
    expected[4:9, 3:7] = True
    for case in report.cases:
        np.testing.assert_array_equal(case.load_mask(), expected)
        assert case.load_image().shape[:2] == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("name", "patients", "known"),
    [
        ("tnbc", ["slide01", "slide01", "slide02", "slide03"], True),
        ("monuseg", ["TCGA-18-5592", "TCGA-18-5592", "TCGA-21-5784", "TCGA-2Z-A9J9"], True),
        ("udiat", ["000001", "000002", "000003", "000004"], True),
        ("us-tnbc", ["case 0", "case 1", "case 2", "case 3"], False),
        ("ad", ["new_wsi_00", "new_wsi_00", "new_wsi_01", "new_wsi_01"], True),
    ],
)
def test_images_of_one_patient_are_known_to_be(
    tmp_path: Path, name: str, patients: list[str], known: bool
) -> None:
    report = report_of(name, tmp_path)
    assert [case.patient for case in report.cases] == patients
    assert report.patients_known == known


@pytest.mark.parametrize("name", MAKERS)
def test_a_site_of_that_name_trains_on_the_layout_and_on_its_phantoms_alike(
    tmp_path: Path, name: str
) -> None:
    MAKERS[name](tmp_path / "data" / name)
    write_phantoms(tmp_path / "phantoms", name, images=4, size=32)
    for folder, phantoms in (("data", False), ("phantoms", True)):
        site = open_site(
            name, tmp_path / folder, size=16, in_channels=3, seed=0, batch_size=2, augment=False
        )
        images, masks = site.training_batch(0)
        assert images.shape == (2, 3, 16, 16)
        assert masks.shape == (2, 1, 16, 16)
        assert site.phantoms == phantoms
        if not phantoms:
            assert masks.flatten(1).sum(1).tolist() == [20, 20]


@pytest.mark.parametrize(
    ("name", "missing", "file"),
    [
        ("tnbc", "TNBC_NucleiSegmentation/GT_02/02_1.png", "Slide_02/02_1.png"),
        ("monuseg", "MoNuSegTestData/TCGA-2Z-A9J9-01A-01-TS1.xml", "TCGA-2Z-A9J9-01A-01-TS1.tif"),
        ("udiat", "BUS/GT/000002.png", "BUS/original/000002.png"),
        ("us-tnbc", "case 1_mask.png", "case 1.png"),
        ("ad", "128x128/new_wsi_01/masks/0.png", "new_wsi_01/patches/0.png"),
    ],
)
def test_a_missing_mask_or_image_is_a_finding_that_names_the_other(
    tmp_path: Path, name: str, missing: str, file: str
) -> None:
    MAKERS[name](tmp_path / name)
    path = tmp_path / name / missing
    kept = path.read_bytes()
    path.unlink()
    (finding,) = check_site_folder(tmp_path / name).findings
    assert finding.file.endswith(file)
    assert finding.reason == "has no mask"
    path.write_bytes(kept)
    (tmp_path / name / finding.file).unlink()
    (finding,) = check_site_folder(tmp_path / name).findings
    assert finding.file == missing
    assert finding.reason == "belongs to no image"


@pytest.mark.parametrize("name", MAKERS)
def test_an_empty_folder_of_that_name_is_a_finding(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (finding,) = check_site_folder(tmp_path / name).findings
    assert f"holds no image in the layout {name}" in finding.reason


def test_pairs_in_sister_folders_are_read_too(tmp_path: Path) -> None:
    for part, number in (("a", 0), ("b", 1)):
        image(tmp_path / "us-tnbc" / part / "pictures" / "1.png", number, colour=False)
        mask(tmp_path / "us-tnbc" / part / "GT" / "1.png")
    image(tmp_path / "us-tnbc" / "2.png", 2, colour=False)
    mask(tmp_path / "us-tnbc" / "Masks" / "2_mask.png")
    report = check_site_folder(tmp_path / "us-tnbc")
    assert report.findings == ()
    assert [case.name for case in report.cases] == ["2", "a-1", "b-1"]


def test_the_same_file_in_both_archives_is_a_finding(tmp_path: Path) -> None:
    folder = tmp_path / "monuseg"
    monuseg(folder)
    image(folder / "again" / "TCGA-18-5592-01Z-00-DX1.tif", 9)
    (finding,) = check_site_folder(folder).findings
    assert "has the name of" in finding.reason


def test_a_table_of_patients_comes_before_the_layout(tmp_path: Path) -> None:
    folder = tmp_path / "us-tnbc"
    us_tnbc(folder)
    rows = "".join(f"case {n}.png,p{n // 2},device {n % 2}\n" for n in range(4))
    (folder / "patients.csv").write_text("image,patient,subsite\n" + rows)
    report = check_site_folder(folder)
    assert report.findings == ()
    assert report.patients_known
    assert [case.patient for case in report.cases] == ["p0", "p0", "p1", "p1"]
    assert report.cases[1].subsite == "device 1"
    (folder / "patients.csv").write_text("image,patient\ncase 0.png,p0\n")
    assert len(check_site_folder(folder).findings) == 3  # images without a row


def test_a_table_that_could_mean_several_files_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "ad"
    ad(folder)
    (folder / "patients.csv").write_text("image,patient\n0.png,p\n")
    (finding,) = check_site_folder(folder).findings
    assert finding.file == "patients.csv"
    assert "some have one name" in finding.reason


def test_the_projects_own_layout_comes_first_under_any_name(tmp_path: Path) -> None:
    image(tmp_path / "tnbc" / "images" / "a.png", 0)
    mask(tmp_path / "tnbc" / "masks" / "a.png")
    report = check_site_folder(tmp_path / "tnbc")
    assert [case.name for case in report.cases] == ["a"]
    assert report.usable


@pytest.mark.parametrize(
    ("levels", "mode"),
    [
        (np.array([[0, 3], [0, 200]], dtype=np.uint8), "L"),
        (np.array([[0, 300], [0, 2]], dtype=np.uint16), "I;16"),
        (np.array([[[0, 0, 0], [0, 200, 0]], [[0, 0, 0], [9, 0, 0]]], dtype=np.uint8), "RGB"),
    ],
)
def test_labels_are_foreground_wherever_they_are_not_black(
    tmp_path: Path, levels: np.ndarray, mode: str
) -> None:
    from fdfed.data import read_labels

    picture = Image.fromarray(levels)
    assert picture.mode == mode
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), [[False, True], [False, True]])


def test_labels_of_a_jpeg_are_refused(tmp_path: Path) -> None:
    from fdfed.data import UnusablePicture, read_labels

    Image.new("L", (4, 4)).save(tmp_path / "a.jpg")
    with pytest.raises(UnusablePicture, match="is a JPEG"):
        read_labels(tmp_path / "a.jpg")

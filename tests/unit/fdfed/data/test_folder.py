"""Bad folders: every finding names file, reason and remedy, and all come at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdfed.data import FolderReport, check_site_folder, write_phantoms
from fdfed.errors import DataError

WriteCase = Callable[..., None]


def reasons(report: FolderReport) -> dict[str, str]:
    return {finding.file: f"{finding.reason} → {finding.remedy}" for finding in report.findings}


def patients_csv(folder: Path, *rows: str, header: str = "image,mask,patient") -> None:
    (folder / "patients.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def test_a_sound_folder_has_its_cases_and_no_findings(site_folder: Path) -> None:
    report = check_site_folder(site_folder)
    assert report.usable
    report.raise_findings()
    assert [case.name for case in report.cases] == list("abcdefghij")
    assert report.cases[0].image == site_folder / "images" / "a.png"
    assert report.cases[0].mask == site_folder / "masks" / "a.png"
    assert report.cases[0].patient == "a"
    assert (report.patients, report.empty_masks, report.phantoms) == (10, 0, False)


def test_real_data_have_no_findings(data_dir: Path) -> None:
    for site in ("tnbc", "monuseg", "busbra", "busuclm"):
        report = check_site_folder(data_dir / site)
        assert report.findings == ()
        assert 1 < report.patients <= len(report.cases)


def test_progress_counts_every_case(site_folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    check_site_folder(site_folder, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 10) for done in range(1, 11)]


def test_empty_masks_are_legal_and_counted(site_folder: Path, write_case: WriteCase) -> None:
    write_case(site_folder, "normal", mask=np.zeros((12, 10), dtype=np.uint8))
    report = check_site_folder(site_folder)
    assert report.usable
    assert report.empty_masks == 1


def test_litter_of_file_managers_is_overlooked(site_folder: Path) -> None:
    (site_folder / "images" / ".DS_Store").write_bytes(b"x")
    (site_folder / "masks" / "Thumbs.db").write_bytes(b"x")
    assert check_site_folder(site_folder).usable


def test_a_missing_folder_names_those_that_are_there(site_folder: Path) -> None:
    report = check_site_folder(site_folder.parent / "sita")
    assert "holds site: name one of these" in reasons(report)[str(site_folder.parent / "sita")]


def test_a_missing_data_folder_is_said_to_be_missing(tmp_path: Path) -> None:
    report = check_site_folder(tmp_path / "none" / "site")
    assert "correct --data" in report.findings[0].remedy


def test_data_that_points_at_the_site_itself_is_recognised(site_folder: Path) -> None:
    report = check_site_folder(site_folder / "site")
    assert "give the folder above it to --data" in report.findings[0].remedy


def test_no_masks_folder_is_one_finding_not_one_per_image(site_folder: Path) -> None:
    shutil.rmtree(site_folder / "masks")
    report = check_site_folder(site_folder)
    assert [(finding.file, finding.reason) for finding in report.findings] == [
        ("masks/", "does not exist as a folder")
    ]


def test_a_folder_that_may_not_be_read_is_a_finding(
    site_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert "Permission denied" in reasons(check_site_folder(site_folder))["images/"]


def test_empty_folders_are_findings(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    assert set(reasons(check_site_folder(tmp_path))) == {"images/", "masks/"}


def test_unpaired_files_are_findings_on_both_sides(site_folder: Path) -> None:
    (site_folder / "masks" / "a.png").rename(site_folder / "masks" / "a_mask.png")
    found = reasons(check_site_folder(site_folder))
    assert set(found) == {"images/a.png", "masks/a_mask.png"}
    assert "has no mask" in found["images/a.png"]
    assert "suffixes such as _mask must go" in found["masks/a_mask.png"]


def test_two_images_of_one_stem_are_ambiguous(site_folder: Path) -> None:
    shutil.copy(site_folder / "images" / "a.png", site_folder / "images" / "a.bmp")
    assert "has the stem of images/a.bmp" in reasons(check_site_folder(site_folder))["images/a.png"]


def test_foreign_files_and_folders_are_findings(site_folder: Path) -> None:
    (site_folder / "images" / "readme.txt").write_text("x")
    (site_folder / "masks" / "old").mkdir()
    assert set(reasons(check_site_folder(site_folder))) == {"images/readme.txt", "masks/old"}


def test_a_mask_of_another_size_is_a_finding(site_folder: Path) -> None:
    Image.new("1", (11, 12)).save(site_folder / "masks" / "c.png")
    assert (
        "11×12 pixels, but its image is 10×12"
        in reasons(check_site_folder(site_folder))["masks/c.png"]
    )


def test_damaged_files_are_findings_with_their_names(site_folder: Path) -> None:
    (site_folder / "images" / "a.png").write_bytes(b"")
    whole = (site_folder / "masks" / "b.png").read_bytes()
    (site_folder / "masks" / "b.png").write_bytes(whole[: len(whole) // 2])
    assert set(reasons(check_site_folder(site_folder))) == {"images/a.png", "masks/b.png"}


def test_an_inverted_mask_is_a_finding(site_folder: Path) -> None:
    mask = np.full((12, 10), 255, dtype=np.uint8)
    mask[4:8, 3:7] = 0
    Image.fromarray(mask).save(site_folder / "masks" / "a.png")
    # 104 of 120 pixels are foreground, and all 44 of the border.
    assert (
        "looks inverted: 87% of the picture and 100%"
        in reasons(check_site_folder(site_folder))["masks/a.png"]
    )


def test_a_large_lesion_clear_of_the_border_is_not_inverted(site_folder: Path) -> None:
    mask = np.zeros((12, 10), dtype=np.uint8)
    mask[1:-1, 1:-1] = 255
    Image.fromarray(mask).save(site_folder / "masks" / "a.png")
    assert check_site_folder(site_folder).usable


def test_swapped_folders_are_recognised(site_folder: Path) -> None:
    (site_folder / "images").rename(site_folder / "x")
    (site_folder / "masks").rename(site_folder / "images")
    (site_folder / "x").rename(site_folder / "masks")
    found = reasons(check_site_folder(site_folder))
    assert "hold each other's files, swap them" in found["masks/a.png"]


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_one_picture_under_two_names_is_a_finding(
    site_folder: Path, write_case: WriteCase, suffix: str
) -> None:
    pixels = np.asarray(Image.open(site_folder / "images" / "a.png"))
    write_case(site_folder, "z", image=pixels, suffix=suffix)  # .bmp: other bytes, same pixels
    found = reasons(check_site_folder(site_folder))
    assert set(found) == {f"images/z{suffix}"}
    assert "same pixels as images/a.png of another patient" in found[f"images/z{suffix}"]


def test_one_picture_twice_in_one_patient_is_legal(
    site_folder: Path, write_case: WriteCase
) -> None:
    write_case(site_folder, "z", image=np.asarray(Image.open(site_folder / "images" / "a.png")))
    rows = [f"{name}.png,{name}.png,{'p' if name in 'az' else name}" for name in "abcdefghijz"]
    patients_csv(site_folder, *rows)
    assert check_site_folder(site_folder).usable


def test_patients_and_subsites_come_from_the_table(site_folder: Path) -> None:
    rows = [f"{name}.png,{name}.png,{'p1' if name < 'f' else 'p2'},GE" for name in "abcdefghij"]
    patients_csv(site_folder, *rows, header="image,mask,patient,subsite")
    report = check_site_folder(site_folder)
    assert report.usable
    assert report.patients == 2
    assert {case.patient for case in report.cases} == {"p1", "p2"}
    assert report.cases[0].subsite == "GE"


def test_the_tables_faults_are_found_line_by_line(site_folder: Path) -> None:
    rows = [f"{name}.png,{name}.png,p" for name in "abcdefgh"]
    patients_csv(site_folder, *rows, "gone.png,,p", "a.png,,p", "b.png,c.png,p", "i.png,i.png,")
    found = reasons(check_site_folder(site_folder))
    assert "'gone.png', which is not in images/" in found["patients.csv line 10"]
    assert "a second time" in found["patients.csv line 11"]
    assert "masks/ has b.png" in found["patients.csv line 12"]
    assert "no patient" in found["patients.csv line 13"]
    assert "has no row" in found["images/i.png"]
    assert "has no row" in found["images/j.png"]


def test_a_table_with_a_byte_order_mark_is_read(site_folder: Path) -> None:
    rows = "\r\n".join(["image,patient", *(f"{name}.png,{name}" for name in "abcdefghij")])
    (site_folder / "patients.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    assert check_site_folder(site_folder).usable


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no column image and no column patient"),
        (b"image;mask;patient\na.png;a.png;p\n", "no column image"),
        (b"image,patient\n\xff\xfe.png,p\n", "cannot be read"),
        (b'image,patient\n"a.png,p\n', "cannot be read"),
    ],
    ids=["empty", "semicolons", "not UTF-8", "open quote"],
)
def test_an_unreadable_table_is_a_finding(site_folder: Path, content: bytes, reason: str) -> None:
    (site_folder / "patients.csv").write_bytes(content)
    found = reasons(check_site_folder(site_folder))
    assert reason in found["patients.csv"]
    assert "columns image, mask and patient" in found["patients.csv"]


def test_patients_images_among_phantoms_are_a_finding(
    tmp_path: Path, write_case: WriteCase
) -> None:
    folder = write_phantoms(tmp_path, "udiat", images=3, size=32)
    (folder / "patients.csv").unlink()
    write_case(folder, "real")
    assert "marks as made of phantoms" in reasons(check_site_folder(folder))["images/real.png"]


def test_the_error_tells_all_findings_and_each_remedy_once(site_folder: Path) -> None:
    for name in "ab":
        (site_folder / "masks" / f"{name}.png").unlink()
    (site_folder / "images" / "c.png").write_bytes(b"x")
    report = check_site_folder(site_folder)
    with pytest.raises(DataError, match=r"3 findings") as caught:
        report.raise_findings()
    text = str(caught.value)
    assert all(name in text for name in ("images/a.png", "images/b.png", "images/c.png"))
    assert text.count("add a mask of the same stem") == 1

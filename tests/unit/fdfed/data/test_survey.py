"""What a survey of a folder says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdfed.data import likenesses, site_folders, survey_site
from fdfed.data.survey import as_document
from fdfed.errors import DataError

WriteCase = Callable[..., None]


def test_the_facts_of_an_image_are_those_worked_by_hand(
    tmp_path: Path, write_case: WriteCase
) -> None:
    # Half of the pixels 0 and half 102: mean 0.2 and standard deviation 0.2 of white. The mask
    # covers 3 of 12 pixels.
    levels = np.zeros((3, 4), dtype=np.uint8)
    levels[:, 2:] = 102
    mask = np.zeros((3, 4), dtype=np.uint8)
    mask[0, :3] = 255
    write_case(tmp_path / "site", "a", image=levels, mask=mask)
    survey = survey_site(tmp_path / "site")
    (facts,) = survey.images
    assert (facts.height, facts.width, facts.channels) == (3, 4, 1)
    assert facts.foreground == pytest.approx(3 / 12)
    assert (facts.mean, facts.sd) == (pytest.approx(0.2), pytest.approx(0.2))
    assert (facts.name, facts.patient, facts.spacing) == ("a", "a", None)
    assert (survey.site, survey.layout) == ("site", "folder")


def test_images_that_cannot_be_read_are_findings_and_have_no_facts(site_folder: Path) -> None:
    (site_folder / "images" / "c.png").write_bytes(b"x")
    (site_folder / "masks" / "d.png").unlink()
    survey = survey_site(site_folder)
    assert [facts.name for facts in survey.images] == list("abefghij")
    assert len(survey.thumbnails) == 8
    assert {finding.file for finding in survey.report.findings} == {"images/c.png", "images/d.png"}


def test_an_unreadable_folder_has_a_survey_too(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    survey = survey_site(tmp_path)
    assert survey.images == ()
    assert likenesses([survey]) == ()
    assert not survey.report.usable


def copied(data: Path, site: str, name: str, patient: str, *, turned: bool = False) -> None:
    """A case of the site `one` again, in another size, under another name."""
    for part in ("images", "masks"):
        picture = Image.open(data / "one" / part / "a.png")
        if turned:
            picture = picture.rotate(90)
        (data / site / part).mkdir(parents=True, exist_ok=True)
        picture.resize((40, 40), Image.Resampling.NEAREST).save(data / site / part / f"{name}.png")
    with (data / site / "patients.csv").open("a") as file:
        file.write(f"{name}.png,{patient}\n")


@pytest.fixture
def two_sites(tmp_path: Path, site_folder: Path) -> Path:
    """`one` with a copy within a patient and one across patients, and `two` with a third."""
    data = tmp_path / "data"
    shutil.move(site_folder, data / "one")
    # Noise would not survive another size: a bright stripe on a slope, and its mask.
    levels = np.linspace(0, 120, 48, dtype=np.float64) + np.linspace(0, 60, 48)[:, None]
    levels[10:16, 5:40] = 255
    Image.fromarray(levels.astype(np.uint8)).save(data / "one" / "images" / "a.png")
    Image.fromarray(levels == 255).save(data / "one" / "masks" / "a.png")
    rows = "".join(f"{letter}.png,{letter}\n" for letter in "abcdefghij")
    (data / "one" / "patients.csv").write_text("image,patient\n" + rows)
    copied(data, "one", "same", "a")
    copied(data, "one", "leak", "b", turned=True)
    (data / "two").mkdir()
    (data / "two" / "patients.csv").write_text("image,patient\n")
    copied(data, "two", "a", "a")
    return data


def test_copies_are_told_by_whether_they_cross_patients_or_sites(two_sites: Path) -> None:
    alike = likenesses([survey_site(folder) for folder in site_folders(two_sites)])
    crossing = {
        ("/".join(entry.first), "/".join(entry.second)): entry.across_patients for entry in alike
    }
    assert crossing[("one/a", "one/same")] is False
    assert crossing[("one/a", "one/leak")] is True
    # One name of a patient at two sites is two people.
    assert crossing[("one/a", "two/a")] is True
    assert {name for pair in crossing for name in pair} == {
        "one/a",
        "one/same",
        "one/leak",
        "two/a",
    }


def test_the_document_holds_everything_and_is_json(two_sites: Path) -> None:
    surveys = [survey_site(folder) for folder in site_folders(two_sites)]
    document = json.loads(json.dumps(as_document(surveys, likenesses(surveys))))
    assert document["usable"] is True
    assert set(document["sites"]) == {"one", "two"}
    one = document["sites"]["one"]
    assert (one["patients"], one["patients_known"], len(one["images"])) == (10, True, 12)
    assert one["images"][0]["name"] == "a"
    assert len(document["near_duplicates"]) == 6
    assert {entry["across_patients"] for entry in document["near_duplicates"]} == {True, False}


def test_a_sites_folder_and_the_folder_above_it_are_told_apart(two_sites: Path) -> None:
    assert site_folders(two_sites / "one") == (two_sites / "one",)
    assert site_folders(two_sites) == (two_sites / "one", two_sites / "two")
    (two_sites / "udiat" / "BUS").mkdir(parents=True)
    assert site_folders(two_sites / "udiat") == (two_sites / "udiat",)
    (two_sites / "own").mkdir()
    (two_sites / "own" / "layout.txt").write_text("tnbc")
    assert site_folders(two_sites / "own") == (two_sites / "own",)


def test_no_folder_and_an_empty_one_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        site_folders(tmp_path / "absent")
    with pytest.raises(DataError, match="nor a folder for each site"):
        site_folders(tmp_path)


def test_real_images_of_two_patients_are_never_alike(data_dir: Path) -> None:
    """On the public sites where they are at hand, else on phantoms."""
    surveys = [survey_site(data_dir / site) for site in ("tnbc", "busuclm")]
    assert all(survey.report.usable for survey in surveys)
    assert not [entry for entry in likenesses(surveys) if entry.across_patients]

"""The study of the advisor: its trials, its trivial predictors, its sites."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from fdfed.advisor import Observation, load_calibration
from fdfed.data import SiteData, check_site_folder, open_site, write_phantoms
from fdfed.evaluation.results_files import load_results
from fdfed.studies.advisor import study as advisor
from fdfed.studies.advisor.files import results_section, validations, write_page, write_study
from fdfed.studies.advisor.predictors import auc, classifier_auc, histogram_distance, share_of
from fdfed.studies.held_out import draw_held_out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for site in advisor.SITES:
        write_phantoms(folder, site, images=24, size=32)
    return folder


def opened(data: Path, site: str) -> SiteData:
    return open_site(site, data, size=32, in_channels=3, seed=0, batch_size=4)


def test_every_pair_is_trained_once_for_both_directions() -> None:
    assert advisor.groups(("c", "a", "b")) == [
        *(("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c")),
    ]
    assert advisor.plan_of(("a", "b"), seed=1, phantoms=True).split.fold == 0


def test_no_confirmatory_patient_is_in_a_site_of_the_study(data: Path, tmp_path: Path) -> None:
    names = advisor.write_sites(data, tmp_path)
    held_out = draw_held_out(data, advisor.SITES)
    for name in names:
        origin = name.split("-")[0]
        patients = {case.patient for case in check_site_folder(tmp_path / name).cases}
        assert patients
        assert not patients & set(held_out[origin])


def test_the_devices_of_one_hospital_are_sites_of_their_own(data: Path, tmp_path: Path) -> None:
    table = data / "busbra" / "patients.csv"
    before = table.read_text()
    rows = list(csv.DictReader(before.splitlines()))
    patients = sorted({row["patient"] for row in rows})
    for row in rows:
        odd = patients.index(row["patient"]) % 2
        row["subsite"] = "GE Logiq 5 @10-12MHz" if odd else "Toshiba Aplio 300 @12-14 MHz"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("image", "mask", "patient", "subsite"))
        writer.writeheader()
        writer.writerows(rows)
    try:
        names = advisor.write_sites(data, tmp_path)
    finally:
        table.write_text(before)
    assert [name for name in names if name.startswith("busbra")] == [
        *("busbra-ge-logiq-5", "busbra-toshiba-aplio-300"),
    ]


def test_the_share_is_of_both_sites_training_images(data: Path) -> None:
    first, second = opened(data, "tnbc"), opened(data, "monuseg").subset(0.5)
    own, added = (len(site.parts["train"]) for site in (first, second))
    assert share_of(first, second) == added / (own + added)


def test_histograms_and_classifier_tell_modalities_apart_and_a_site_not_from_itself(
    data: Path,
) -> None:
    tnbc, busbra = opened(data, "tnbc"), opened(data, "busbra")
    assert histogram_distance(tnbc, tnbc) == 0
    assert histogram_distance(tnbc, busbra) > 0.1
    assert classifier_auc(tnbc, busbra) > 0.95
    assert abs(classifier_auc(tnbc, tnbc) - 0.5) < 0.1


def test_the_auc_is_the_share_of_ordered_pairs_worked_by_hand() -> None:
    # Of the six pairs, four are in order and one is a tie: 4.5 / 6.
    found = auc(np.array([0.0, 2.0]), np.array([1.0, 2.0, 3.0]))
    assert found == pytest.approx(4.5 / 6)


def test_a_finished_pair_is_an_observation_in_both_directions(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"rounds": 1, "steps_per_round": 1, "width": 4, "size": 32, "batch_size": 2}
    monkeypatch.setattr(advisor, "_COMMON", advisor._COMMON | short)
    monkeypatch.setattr(advisor, "SEEDS", 1)
    monkeypatch.setattr(advisor, "LEARNED", 0.0)
    sites, told = ("tnbc", "monuseg"), list[str]()

    def train(deadline: float) -> bool:
        return advisor.train(
            data,
            sites,
            out=tmp_path,
            seed=0,
            phantoms=True,
            deadline=deadline,
            told=lambda name, _: told.append(name),
        )

    assert not train(deadline=0.0), "no run is begun when the time is up"
    assert train(deadline=math.inf)
    assert train(deadline=0.0), "nothing is left"
    assert told == ["0-monuseg", "0-tnbc", "0-monuseg+tnbc"]
    found = advisor.observations(data, sites, out=tmp_path, phantoms=True)
    assert [(entry.base, entry.novel) for entry in found] == [
        *(("monuseg", "tnbc"), ("tnbc", "monuseg")),
    ]
    last = {
        name: load_results(tmp_path / "runs" / name / "results.json").rounds[-1].sites["tnbc"]
        for name in ("0-tnbc", "0-monuseg+tnbc")
    }
    before, after = (last[name].val_dice for name in ("0-tnbc", "0-monuseg+tnbc"))
    assert before is not None
    assert after is not None
    assert found[1].change == pytest.approx(after - before)
    monkeypatch.setattr(advisor, "LEARNED", 1.01)
    assert not advisor.observations(data, sites, out=tmp_path, phantoms=True), "none has learned"
    assert found[0].histogram == found[1].histogram
    assert found[0].shift != found[1].shift, "each base has its own model"


def rows(count: int) -> list[Observation]:
    return [
        Observation(
            base="a",
            novel=f"b{number}",
            phantoms=True,
            change=-0.01 * number,
            shift=0.1 * number,
            share=0.5,
            histogram=0.1,
            classifier=0.5 + 0.001 * (number % 3),
        )
        for number in range(count)
    ]


def test_the_page_says_what_beat_what_and_the_files_hold_it(tmp_path: Path) -> None:
    found = {"phantoms": rows(9), "images": rows(2)}
    trials = {"phantoms": (9, 9), "images": (2, 30)}
    text = results_section(found, trials)
    assert "2 of 30 trainings are finished: 2 observations on 2 pairs" in text
    assert "it beat 3 of the three trivial predictors, and none was better" in text
    assert text.count("| predictor |") == 1
    assert "Nothing is validated, nor foretold, on fewer than 8 pairs" in text
    write_study(tmp_path, found, trials=trials)
    assert len(load_calibration(tmp_path / "calibration.json").observations) == 11
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("advisor.csv", "advisor.svg", "calibration.json", "study.json"),
    ]


def test_a_predictor_that_is_no_better_than_the_mean_is_said_to_be_none(tmp_path: Path) -> None:
    worse = [
        entry.model_copy(update={"change": 0.01 * (-1) ** number})
        for number, entry in enumerate(rows(9))
    ]
    by_name = {entry.predictor: entry.rmse for entry in validations(worse)}
    assert by_name["shift"] >= by_name["none"]
    text = results_section({"phantoms": worse}, {"phantoms": (9, 9)})
    assert "foretold no better than the mean change of the other pairs" in text
    page = tmp_path / "advisor.md"
    page.write_text(
        "# x\n\n<!-- results: written by `fdfed study advisor --page`, do not edit -->\n\n"
        "<!-- end of results -->\n"
    )
    write_page(page, {"phantoms": worse}, trials={"phantoms": (9, 9)})
    assert "foretold no better" in page.read_text()

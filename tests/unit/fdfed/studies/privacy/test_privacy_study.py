"""The study resumes, keeps to development patients, and writes what it measured."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fdfed.data import check_site_folder, held_out_patients, write_phantoms
from fdfed.errors import DataError, InvalidInput
from fdfed.studies.held_out import DRAW
from fdfed.studies.page import END, begin_mark
from fdfed.studies.privacy import (
    Row,
    Setting,
    load_rows,
    run_privacy_study,
    write_privacy_page,
    write_privacy_study,
)
from fdfed.studies.privacy.setting import Population, open_population
from fdfed.studies.privacy.study import JOBS
from fdfed.studies.privacy.study_files import controls

SMALL = Setting(
    width=4,
    members=8,
    others=8,
    shares=2,
    samples=400,
    steps_seen=500,
    forgeries=1,
    proxies=16,
    rounds=2,
    steps=1,
    watched=1,
    matching_steps=2,
    matching_width=2,
    matched_images=1,
    bootstrap=5,
)
ROW = Row(part="membership", attack="a", defence="none", measure="AUC", value=0.9, n=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for site in SMALL.sites:
        write_phantoms(folder, site, images=40, size=32)
    return folder


@pytest.fixture(scope="module")
def population(data: Path) -> Population:
    return open_population(SMALL, data)


def test_no_held_out_patient_is_a_member_or_a_proxy(data: Path, population: Population) -> None:
    members, others = set(population.members.patients), set(population.others.patients)
    decoys = set(population.decoys.patients)
    assert not members & others
    assert not decoys & (members | others)
    for site in SMALL.sites:
        cases = check_site_folder(data / site).cases
        aside = held_out_patients((case.patient for case in cases), site=site, draw=DRAW)
        assert aside
        assert not {f"{site}/{name}" for name in aside} & (members | others | decoys)


def test_too_few_images_are_refused(data: Path) -> None:
    with pytest.raises(DataError, match="usable images"):
        open_population(replace(SMALL, others=1000), data)


@pytest.mark.parametrize("name", list(JOBS))
def test_every_job_gives_rows_of_finite_numbers(name: str, population: Population) -> None:
    rows = JOBS[name](SMALL, population)
    assert rows
    for row in rows:
        assert row.value == row.value
        assert row.low is None or row.high is None or row.low <= row.high


def counting(calls: list[str], name: str) -> Callable[[Setting, Population], list[Row]]:
    def job(setting: Setting, population: Population) -> list[Row]:
        calls.append(name)
        if name == "second" and calls.count(name) == 1:
            raise KeyboardInterrupt
        return [replace(ROW, attack=name)]

    return job


def test_a_study_that_was_cut_goes_on_behind_what_is_done(data: Path, tmp_path: Path) -> None:
    calls: list[str] = []
    jobs = {name: counting(calls, name) for name in ("first", "second", "third")}

    def run(seconds: float = 1e9) -> bool:
        return run_privacy_study(
            SMALL, data=data, out=tmp_path, stop_after_seconds=seconds, jobs=jobs
        )

    with pytest.raises(KeyboardInterrupt):
        run()
    assert run(seconds=0.0) is False
    assert calls == ["first", "second"]
    assert run() is True
    assert calls == ["first", "second", "second", "third"]
    assert run() is True
    assert len(calls) == 4
    rows, seconds = load_rows(tmp_path, jobs)
    assert [row.attack for row in rows] == list(seconds) == ["first", "second", "third"]


def test_a_folder_of_another_setting_is_refused(data: Path, tmp_path: Path) -> None:
    arguments = {"data": data, "out": tmp_path, "stop_after_seconds": 0.0, "jobs": {}}
    run_privacy_study(SMALL, **arguments)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="width"):
        run_privacy_study(replace(SMALL, width=8), **arguments)  # type: ignore[arg-type]


def test_a_hospital_without_two_images_is_refused() -> None:
    with pytest.raises(InvalidInput, match="two images"):
        Setting(members=3, shares=2)


def test_an_attack_counts_only_if_it_succeeds_undefended() -> None:
    rows = [
        ROW,
        replace(ROW, defence="none; secure sum of 3", value=0.5),
        replace(ROW, attack="b", value=0.79),
        replace(ROW, attack="b", defence="DP", value=0.9),
    ]
    assert controls(rows) == {"a": True, "b": False}


def test_the_files_and_the_page_say_what_was_measured(tmp_path: Path) -> None:
    rows = [
        replace(ROW, low=0.8, high=0.95, reference=0.5),
        replace(ROW, part="reconstruction", measure="SSIM", value=0.25, reference=0.125),
        replace(ROW, part="isometry", measure="error", value=1e-14, reference=0.5),
    ]
    write_privacy_study(tmp_path, rows, seconds={"a": 90.0}, setting=SMALL)
    document = json.loads((tmp_path / "study.json").read_text())
    assert document["controls"] == {"a": True}
    with (tmp_path / "privacy.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["value"] for row in table] == ["0.9", "0.25", "1e-14"]
    assert "<svg" in (tmp_path / "privacy.svg").read_text()

    page = tmp_path / "page.md"
    page.write_text(f"# Above\n\n{begin_mark('privacy')}\nstale\n{END}\n\nBelow\n")
    write_privacy_page(page, rows, seconds={"a": 90.0})
    text = page.read_text()
    assert text.startswith("# Above\n")
    assert text.endswith("Below\n")
    assert "stale" not in text
    assert "0.90 (0.80–0.95) [0.50]" in text
    assert "1e-14 [0.50]" in text
    assert "the positive control succeeds" in text

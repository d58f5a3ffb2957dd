"""The files of a run's results."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed.evaluation import (
    Aggregate,
    ExchangeResult,
    ImageRow,
    RoundRecord,
    RunResults,
    SiteResult,
    SiteRound,
    TapLoss,
    Traffic,
    library_versions,
    load_per_image,
    load_results,
    write_images_csv,
    write_results,
    write_rounds_csv,
)

PLAN = RunPlan(sites=("alpha", "beta"), rounds=2)
ROUNDS = (
    RoundRecord(
        round=1,
        phase=1,
        sites={
            "alpha": SiteRound(loss_seg=1.5, val_dice=0.25, num_examples=9, drift=0.5),
            "beta": SiteRound(refused="the update holds NaN"),
        },
        alpha={"Bot": 0.0},
        seconds=2.5,
    ),
    RoundRecord(
        round=2,
        phase=2,
        attempt=2,
        sites={"alpha": SiteRound(val_dice=0.75), "beta": SiteRound(val_dice=0.25)},
        alpha={"Bot": 0.01},
        losses={"Bot": TapLoss(fd=1.25, exch=-0.5)},
        bytes=Traffic(up=10, down=20),
    ),
)
RESULTS = RunResults(
    sites={
        "alpha": SiteResult(dice=0.5, iou=1 / 3, n_train=7, n_val=1, n_test=2, dice_sd=0.125),
        "beta": SiteResult(dice=None, iou=None, n_train=5, n_val=1, n_test=1),
    },
    rounds=ROUNDS,
    alpha={"Bot": 0.01},
    exchange=ExchangeResult(steps=4, answered=3, peers_mean=1.0, swap_ms_p50=1.5),
    seconds={"total": 5.5},
    config=PLAN.model_dump(mode="json"),
    versions={"python": "3.11"},
    phantoms=True,
    best_round=2,
)
ROW = ImageRow(site="alpha", name="a", dice=0.5, iou=1 / 3, foreground_pixels=3, empty=False)


def test_results_read_back_as_they_were_written(tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", RESULTS, per_image=[ROW])
    assert load_results(tmp_path / "results.json") == RESULTS
    assert load_per_image(tmp_path / "results.json") == (ROW,)


def test_the_file_has_the_keys_on_which_scripts_rely(tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", RESULTS)
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["sites"]["alpha"].items() >= {
        ("dice", 0.5),
        ("iou", 1 / 3),
        ("n_train", 7),
        ("n_val", 1),
        ("n_test", 2),
    }
    assert document["alpha"] == {"Bot": 0.01}
    assert document["exchange"].keys() >= {
        *("steps", "peers_mean", "bytes_up", "bytes_down", "swap_ms_p50"),
    }
    assert document["bytes"] == {"up": 0, "down": 0}
    assert document["config"] == json.loads(PLAN.to_json())
    assert document["rounds"][1]["losses"] == {"Bot": {"fd": 1.25, "exch": -0.5}}
    assert document.keys() >= {"rounds", "seconds", "privacy", "versions"}


def test_scores_of_single_images_are_absent_unless_they_are_handed_in(tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", RESULTS)
    assert "per_image" not in json.loads((tmp_path / "results.json").read_text())
    assert load_per_image(tmp_path / "results.json") == ()


def test_nan_becomes_null_so_that_every_json_reader_accepts_the_file(tmp_path: Path) -> None:
    unknown = replace(
        RESULTS, rounds=(RoundRecord(round=1, phase=1, losses={"Bot": TapLoss(fd=math.nan)}),)
    )
    write_results(
        tmp_path / "results.json", unknown, per_image=[replace(ROW, dice=math.nan, iou=math.inf)]
    )
    text = (tmp_path / "results.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert load_results(tmp_path / "results.json").rounds[0].losses["Bot"].fd is None
    assert load_per_image(tmp_path / "results.json")[0].dice is None


def test_keys_of_a_later_version_are_left_out(tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", RESULTS)
    document = json.loads((tmp_path / "results.json").read_text())
    document["of_tomorrow"] = document["sites"]["alpha"]["of_tomorrow"] = 1
    (tmp_path / "results.json").write_text(json.dumps(document))
    assert load_results(tmp_path / "results.json") == RESULTS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "no JSON object"),
        ('{"sites": {}}', "is not the results of a run: rounds: Field required"),
    ],
)
def test_a_file_that_is_no_result_is_refused_by_name(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(InvalidInput, match=rf"other\.json .*{message}"):
        load_results(tmp_path / "other.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"results\.json does not exist"):
        load_results(tmp_path / "results.json")


def test_rounds_csv_has_one_row_a_round_and_site(tmp_path: Path) -> None:
    write_rounds_csv(tmp_path / "rounds.csv", ROUNDS)
    with (tmp_path / "rounds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["round"], row["site"]) for row in rows] == [
        *(("1", "alpha"), ("1", "beta")),
        *(("2", "alpha"), ("2", "beta")),
    ]
    assert rows[0]["val_dice"] == "0.25"
    assert rows[1]["val_dice"] == ""
    assert rows[1]["refused"] == "the update holds NaN"
    assert rows[2]["attempt"] == "2"


def test_images_csv_has_one_row_an_image(tmp_path: Path) -> None:
    write_images_csv(tmp_path / "images.csv", [ROW, replace(ROW, name="b", dice=math.nan)])
    with (tmp_path / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["dice"]) for row in rows] == [("a", "0.5"), ("b", "")]


def test_the_mean_over_sites_leaves_out_sites_without_a_score() -> None:
    assert ROUNDS[0].mean_val_dice == 0.25
    assert ROUNDS[1].mean_val_dice == 0.5
    nothing = RoundRecord(round=1, phase=1, sites={"alpha": SiteRound(val_dice=math.nan)})
    assert nothing.mean_val_dice is None


def test_a_site_that_withheld_its_scores_still_tells_its_counts() -> None:
    withheld = SiteResult.of(None, None, n_train=3, n_val=1, n_test=2)
    assert (withheld.dice, withheld.iou, withheld.n_test) == (None, None, 2)


def test_a_sites_result_carries_its_aggregates() -> None:
    dice = Aggregate(n=4, n_empty=1, mean=0.5, sd=0.25, q25=0.375, median=0.5, q75=0.625)
    result = SiteResult.of(dice, replace(dice, mean=0.4), n_train=3, n_val=1, n_test=5)
    assert (result.dice, result.iou, result.dice_sd) == (0.5, 0.4, 0.25)
    assert (result.n_scored, result.n_empty) == (4, 1)


def test_versions_name_python_and_the_libraries_that_decide_a_result() -> None:
    assert library_versions().keys() >= {"python", "fdfed", "torch", "monai", "flwr"}

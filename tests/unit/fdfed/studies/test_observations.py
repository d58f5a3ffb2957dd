"""What is said of L_fd and Dice over test images: by hand, against SciPy, and as files."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from fdfed.networks import create_network
from fdfed.studies import TrialResult
from fdfed.studies.baselines.configuration import read_configuration
from fdfed.studies.observations import tables
from fdfed.studies.observations.files import Report, tables_of
from fdfed.studies.observations.measures import (
    averaged,
    correlation,
    mediated_share,
    moved,
    share_within_bound,
    worst_and_best,
)
from fdfed.studies.observations.pictures import chosen, draw_features, draw_masks, errors
from fdfed.studies.observations.views import VIEWS, WITH, WITHOUT
from fdfed.studies.page import END, begin_mark
from fdfed.studies.scored_images import ScoredImage, spectral_norms

CONFIGURATION = read_configuration(Path(__file__).parents[4] / "docs/studies/baselines.toml")


def image(
    name: str, dice: float | None, loss: float, *, site: str = "a", **own: int
) -> ScoredImage:
    values = {"annotated_pixels": 10, "predicted_pixels": 10} | own
    return ScoredImage(
        site=site,
        image=name,
        patient=name,
        dice=dice,
        iou=None if dice is None else dice / 2,
        discrepancy={"Bot": loss, "Dec4": -loss},
        **values,
    )


def drawn(count: int, *, seed: int = 0, lift: float = 0.0, site: str = "a") -> list[ScoredImage]:
    """Images whose Dice falls with L_fd, and noise."""
    rng = np.random.default_rng(seed)
    loss = rng.normal(0, 1, count)
    dice = np.clip(0.6 - 0.1 * loss + rng.normal(0, 0.05, count) + lift, 0, 1)
    return [
        image(f"{n}", float(d), float(x) - lift, site=site)
        for n, (x, d) in enumerate(zip(loss, dice, strict=True))
    ]


def test_correlations_are_scipys_and_their_intervals_hold_them() -> None:
    images = drawn(40)
    loss = [i.discrepancy["Bot"] for i in images]
    dice = [i.dice for i in images]
    found = correlation(images, "Bot")
    assert found.pearson.value == pytest.approx(stats.pearsonr(loss, dice).statistic)
    assert found.spearman.value == pytest.approx(stats.spearmanr(loss, dice).statistic)
    low, high = found.pearson.low, found.pearson.high
    assert low is not None
    assert high is not None
    assert -1 <= low < found.pearson.value < high < 0
    assert found.slope == pytest.approx(np.polyfit(loss, np.array(dice, float), 1)[0])


def test_images_of_one_patient_widen_the_interval() -> None:
    images = drawn(40)
    alone = correlation(images, "Bot").pearson
    # Four patients of ten images each, who differ in their mean alone.
    shared = [replace(i, patient=str(n // 10)) for n, i in enumerate(images)]
    shifted = [replace(i, dice=min(1.0, (i.dice or 0) + 0.1 * int(i.patient))) for i in shared]
    together = correlation(shifted, "Bot").pearson
    assert alone.low is not None
    assert alone.high is not None
    assert together.low is not None
    assert together.high is not None
    assert together.high - together.low > 0
    assert correlation(shifted, "Bot").patients == 4


def test_too_few_images_have_no_correlation() -> None:
    assert correlation(drawn(2), "Bot").pearson.value is None
    assert correlation([], "Bot").slope is None


def test_the_bound_of_equation_2_by_hand() -> None:
    # k = 10 / 10 = 1: -log(0.5 · 2) = 0 <= 0.1; k = 30 / 10 = 3: -log(0.25 · 4) = 0 > -0.1.
    images = [
        image("held", 0.5, 0.1),
        image("broken", 0.25, -0.1, annotated_pixels=30),
        image("nothing found", 0.0, 5.0, predicted_pixels=0),
        image("empty", None, 5.0),
    ]
    assert share_within_bound(images, "Bot") == 0.5
    assert share_within_bound([], "Bot") is None


def test_a_site_effect_that_goes_through_z_alone_is_mediated_whole() -> None:
    rng = np.random.default_rng(0)
    images = []
    for site, shift in (("a", 0.0), ("b", 2.0)):
        for n in range(60):
            loss = shift + float(rng.normal())
            images.append(
                image(f"{n}", 0.8 - 0.1 * loss + float(rng.normal(0, 0.01)), loss, site=site)
            )
    found = mediated_share(images, "Bot")
    assert found.value == pytest.approx(1.0, abs=0.05)
    # An effect beside Z, as large as that through it: half.
    beside = [replace(i, dice=(i.dice or 0) - 0.2 * (i.site == "b")) for i in images]
    assert mediated_share(beside, "Bot").value == pytest.approx(0.5, abs=0.07)
    assert mediated_share(drawn(10), "Bot").value is None


def test_the_share_that_moves_to_the_better_quarter_by_hand() -> None:
    before = [image(name, 0.5, 1.0) for name in "123"] + [image("4", None, 1.0)]
    after = [
        image(name, dice, loss)
        for name, dice, loss in (("1", 0.6, 0.5), ("2", 0.6, 1.5), ("3", 0.4, 0.5), ("4", 0.9, 0.0))
    ]
    assert moved(before, after, "Bot") == pytest.approx(1 / 3)


def test_images_are_averaged_over_runs_and_a_missing_tap_is_left_out() -> None:
    second = replace(image("1", 0.8, 3.0), discrepancy={"Bot": 3.0})
    (found,) = averaged([[image("1", 0.6, 1.0)], [second]])
    assert found.dice == pytest.approx(0.7)
    assert found.discrepancy == {"Bot": 2.0}


def test_the_worst_and_the_best_never_overlap() -> None:
    images = [image(f"{n}", n / 10, 0.0) for n in range(8)]
    worst, best, threshold = worst_and_best(images, at_most=35)
    assert (worst, best, threshold) == ({"0", "1"}, {"6", "7"}, 0.1)
    assert worst_and_best([], at_most=3)[0] == set()


def result_of(name: str, seed: int, images: list[ScoredImage], method: str = "fd") -> TrialResult:
    return TrialResult(
        name=name,
        group="histology",
        method=method,
        config="x",
        fold=0,
        seed=seed,
        steps=1,
        score=0.5,
        alpha={"Bot": 0.01, "Dec4": 0.0},
        images=images,
        spectral_norms={"head.weight": 1.5},
    )


def runs(lift: float, seeds: int = 3) -> dict[int, TrialResult]:
    found = {}
    for seed in range(seeds):
        images = [
            replace(i, site=site)
            for site in ("tnbc", "monuseg")
            for i in drawn(12, lift=lift + 0.01 * seed, seed=ord(site[0]))
        ]
        found[seed] = result_of(f"{lift}-{seed}", seed, images)
    return found


def test_the_tests_of_table_4_are_scipys() -> None:
    without, with_loss = runs(0.0), runs(0.05)
    row = next(
        r for r in tables.significance(without, with_loss)
        if (r["site"], r["metric"]) == ("tnbc", "dice")
    )  # fmt: skip
    ours, theirs = (
        [float(np.mean([i.dice or 0 for i in r.images if i.site == "tnbc"])) for r in side.values()]
        for side in (with_loss, without)
    )
    assert row["one_sample_p"] == pytest.approx(stats.ttest_1samp(ours, theirs[0]).pvalue)
    assert row["welch_p"] == pytest.approx(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)
    # Twelve patients who all gain: 2 of 2^12 sign patterns are as extreme.
    assert row["wilcoxon_p"] == pytest.approx(2 / 2**12)
    single = tables.significance({0: without[0]}, {0: with_loss[0]})[0]
    assert (single["one_sample_p"], single["welch_p"]) == (None, None)


def test_table_2_fixes_its_sets_by_the_runs_without_the_loss() -> None:
    rows = tables.by_difficulty(runs(0.0), runs(0.05))
    by_name = {(row["site"], row["images"]): row for row in rows}
    assert by_name["tnbc", "worst-off"]["n"] == 4
    assert by_name["tnbc", "all"]["n"] == 12
    assert by_name["tnbc", "worst-off"]["dice_without"] < by_name["tnbc", "all"]["dice_without"]
    assert by_name["tnbc", "all"]["dice_change"] == pytest.approx(0.05, abs=0.01)


def results_of(name: str) -> dict[str, TrialResult]:
    design = VIEWS[name].design
    found = {}
    for variant in design.variants:
        lift = {WITHOUT: 0.0, WITH: 0.05}[variant.name]
        for seed, result in runs(lift).items():
            trial = design.trial(
                "rehearsal", CONFIGURATION.content, "histology", variant, seed=seed
            )
            found[trial.name] = replace(result, name=trial.name)
    return found


def test_a_reader_sees_runs_without_and_with_the_loss_side_by_side() -> None:
    def row(trained: str, kind: str, of: str, **values: float | None) -> dict[str, object]:
        return {"trained_with": trained, "kind": kind, "of": of, "n": 3} | values

    rows = [
        row(side, kind, of, **values)
        for side, shift in ((WITHOUT, 0.0), (WITH, 0.5))
        for kind, of, values in (
            ("tap", "Bot", {"r": 0.25 + shift, "r_low": 0.0, "r_high": 1.0, "norm": None}),
            ("tap", "Dec1", {"r": None, "r_low": None, "r_high": None, "norm": None}),
            ("layer", "head", {"r": None, "r_low": None, "r_high": None, "norm": 2.0 + shift}),
        )
    ]
    taps, layers = tables_of(rows)
    assert taps.splitlines() == [
        "| of | n | r, no L_fd | r, L_fd |",
        "|---|---|---|---|",
        "| Bot | 3 | 0.25 (0 to 1) | 0.75 (0 to 1) |",
        "| Dec1 | 3 | – | – |",
    ]
    assert layers.splitlines()[0] == "| of | n | norm, no L_fd | norm, L_fd |"
    assert layers.splitlines()[2] == "| head | 3 | 2 | 2.5 |"


def test_a_title_that_asks_has_no_full_stop_behind_it() -> None:
    asks, says = (Report("rehearsal", CONFIGURATION, VIEWS[n]) for n in ("table4", "figure6"))
    assert "more than chance? Stage: rehearsal." in asks.section({}, [])
    assert says.section({}, []).startswith("Gains of L_fd. Stage: rehearsal.")


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_leaves_a_table_a_figure_and_numbers(name: str, tmp_path: Path) -> None:
    page = tmp_path / "page" / f"{name}.md"
    page.parent.mkdir()
    page.write_text(f"{begin_mark(name)}\n{END}\n")
    report = Report("rehearsal", CONFIGURATION, VIEWS[name])
    report.write_study(tmp_path, results_of(name))
    report.write_page(page, results_of(name))
    with (tmp_path / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    document = json.loads((tmp_path / "study.json").read_text())
    assert len(document["rows"]) == len(rows)
    if VIEWS[name].draw is not None:
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
        assert (page.parent / f"{name}.svg").exists()
    assert not list(page.parent.glob("*.png"))
    assert "trials are finished" in page.read_text()


def test_a_view_without_a_run_says_so(tmp_path: Path) -> None:
    page = tmp_path / "theory.md"
    page.write_text(f"{begin_mark('theory')}\n{END}\n")
    report = Report("rehearsal", CONFIGURATION, VIEWS["theory"])
    report.write_study(tmp_path / "out", {})
    report.write_page(page, {})
    assert "No run is finished on both sides yet." in page.read_text()


# --- pictures


def test_errors_are_marked_by_hand() -> None:
    predicted = np.array([[True, True], [False, False]])
    annotated = np.array([[True, False], [True, False]])
    picture = errors(predicted, annotated)
    assert picture[0, 0].tolist() == [1, 1, 1]
    assert picture[1, 1].tolist() == [0, 0, 0]
    assert picture[0, 1, 2] > picture[0, 1, 0]  # blue: added
    assert picture[1, 0, 0] > picture[1, 0, 2]  # orange: missed


def test_the_worst_the_median_and_the_best_image_are_drawn(tmp_path: Path) -> None:
    images = [image(f"{n}", n / 10, 0.0) for n in range(5)]
    assert chosen(images, "a") == {"worst": "0", "median": "2", "best": "4"}
    assert chosen(images, "b") == {}
    networks = {name: create_network("unet", in_channels=3, width=2).eval() for name in ("x", "y")}
    picture, mask = torch.rand(1, 3, 40, 40), torch.zeros(1, 1, 40, 40)
    mask[..., 5:20, 5:20] = 1
    for draw in (draw_masks, draw_features):
        path = tmp_path / f"{draw.__name__}.png"
        draw(path, picture, mask, networks)
        assert path.stat().st_size > 1000


def test_a_spectral_norm_is_the_largest_singular_value() -> None:
    network = create_network("unet", in_channels=1, width=2)
    norms = spectral_norms(network)
    weight = dict(network.named_parameters())["encoders.0.0.weight"].detach().flatten(1).double()
    expected = math.sqrt(float(torch.linalg.eigvalsh(weight @ weight.T).max()))
    assert norms["encoders.0.0.weight"] == pytest.approx(expected)
    assert not any(name.endswith("bias") for name in norms)

"""Studies of variants: what each row changes, and that it is set against its own reference."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from fdfed.cli.study import Name
from fdfed.config import RunPlan, parse
from fdfed.data import open_site
from fdfed.errors import DataError, InvalidInput
from fdfed.studies import Trial, TrialResult
from fdfed.studies.baselines.agenda import trial as compared_trial
from fdfed.studies.baselines.configuration import BASE, read_configuration
from fdfed.studies.catalogue import COMPARISONS, STUDIES, staged_study
from fdfed.studies.five_losses import FIVE_LOSSES, MATCHED, WITH
from fdfed.studies.held_out import draw_held_out
from fdfed.studies.scored_images import ScoredImage
from fdfed.studies.trials.phase_one import left_by, phase_1_key
from fdfed.studies.variants.analysis import analyse
from fdfed.studies.variants.design import named
from fdfed.studies.variants.designs import (
    ABLATION_AVERAGING,
    ABLATION_LAYERS,
    DESIGNS,
    FIGURE_10,
    NOISE,
    SITES_OF,
    UNSEEN_SITE,
    noisy,
)
from fdfed.studies.variants.files import Report, changes_by_noise
from fdfed.studies.variants.hospitals import PARTS, make_hospitals

CONFIGURATION = read_configuration(Path(__file__).parents[4] / "docs/studies/baselines.toml")
CONTENT = CONFIGURATION.content


def test_the_command_offers_every_study() -> None:
    assert set(get_args(Name)) == {*STUDIES, *COMPARISONS, "privacy", "advisor", "hostile"}


@pytest.mark.parametrize("name", DESIGNS)
def test_every_trial_of_a_design_is_one_that_can_be_run(name: str) -> None:
    design = DESIGNS[name]
    trials = design.agenda("rehearsal", CONTENT)
    assert len({trial.name for trial in trials}) == len(trials)
    for trial in trials:
        assert trial.plan.split.set_aside == "confirmatory-1"
    for group in CONTENT.groups:
        names = {variant.name for variant in design.of_group(group)}
        assert {v.against for v in design.of_group(group)} - {None} <= names


def test_a_row_that_changes_nothing_is_the_trial_of_the_comparison() -> None:
    own = {t.name for t in ABLATION_LAYERS.agenda("rehearsal", CONTENT) if t.plan.seed == 0}
    for method, candidate in (("fedavg", BASE), ("fd", None)):
        compared = compared_trial(
            "rehearsal", CONTENT, "histology", method, seed=0, candidate=candidate
        )
        assert compared.name in own


@pytest.mark.parametrize("group", CONTENT.groups)
def test_training_without_l_fd_differs_from_that_with_it_in_the_loss_alone(group: str) -> None:
    without, with_loss = (
        parse(RunPlan, CONTENT.values(group, recipe.method, recipe.candidate), source="a test")
        for recipe in (MATCHED, FIVE_LOSSES[WITH])
    )
    assert (without.loss, with_loss.loss) == ("seg", "fd")
    assert with_loss.model_copy(update={"loss": "seg"}) == without
    left = left_by(without)
    assert left is not None
    assert phase_1_key(with_loss) in left[0]


@pytest.mark.parametrize("kind", ["BatchNorm", "GroupNorm"])
def test_with_a_sites_own_norms_l_fd_is_the_only_difference_too(kind: str) -> None:
    without, with_loss = (
        ABLATION_AVERAGING.trial(
            "rehearsal", CONTENT, "histology", named(ABLATION_AVERAGING.variants, row), seed=0
        ).plan
        for row in (
            named(ABLATION_AVERAGING.variants, f"own {kind}, L_fd").against or "",
            f"own {kind}, L_fd",
        )
    )
    assert (without.strategy, without.loss, with_loss.loss) == ("fedbn", "seg", "fd")
    assert with_loss.model_copy(update={"loss": "seg"}) == without


def test_layers_differ_in_the_taps_that_have_a_weight_alone() -> None:
    rows = {v.name: v for v in ABLATION_LAYERS.variants}
    plans = {
        name: ABLATION_LAYERS.trial("rehearsal", CONTENT, "histology", row, seed=0).plan
        for name, row in rows.items()
    }
    everywhere = plans["all taps"]
    for tap in ("Enc1", "Dec4", "Bot"):
        alpha = everywhere.alpha.model_copy(update={"taps": (tap,)})
        assert plans[f"{tap} alone"] == everywhere.model_copy(update={"alpha": alpha})


def test_the_noise_study_has_five_losses_at_the_papers_levels_and_without_noise() -> None:
    plans = [t.plan for t in FIGURE_10.agenda("rehearsal", CONTENT) if t.plan.seed == 0]
    assert sorted({plan.noise for plan in plans}) == sorted(NOISE) == [0, 0.05, 0.1, 0.15, 0.2]
    assert len(plans) == 2 * 5 * 5


def test_an_unseen_site_is_in_no_plan_that_is_tested_on_it() -> None:
    trials = UNSEEN_SITE.agenda("confirmatory", CONTENT)
    for trial in trials:
        assert len(trial.plan.sites) == 2
        assert len(trial.evaluate) == 1
        assert {*trial.plan.sites, *trial.evaluate} == set(SITES_OF[trial.group])
        # At every stage: the confirmatory patients stay aside.
        assert trial.plan.split.set_aside == "confirmatory-1"


def result_of(trial: Trial, dice: dict[str, list[float]]) -> TrialResult:
    return TrialResult(
        name=trial.name,
        group=trial.group,
        method=trial.method,
        config=trial.config,
        fold=0,
        seed=trial.plan.seed,
        steps=1,
        score=0.5,
        images=[
            ScoredImage(site=site, image=f"{n}", patient=f"{n}", dice=value, iou=value / 2)
            for site, values in dice.items()
            for n, value in enumerate(values)
        ],
    )


def test_a_lead_is_over_the_rows_own_reference_and_of_the_unseen_site_alone(tmp_path: Path) -> None:
    first, _, ours, _ = UNSEEN_SITE.of_group("histology")[:4]
    levels = {first.name: 0.5, ours.name: 0.55}
    results = {}
    for variant in (first, ours):
        for seed in range(2):
            trial = UNSEEN_SITE.trial("rehearsal", CONTENT, "histology", variant, seed=seed)
            level = levels[variant.name]
            # The sites that it was trained on are no part of the row.
            dice = {"tnbc": [level, level + 0.1], "monuseg-single": [0.9]}
            results[trial.name] = result_of(trial, dice)
    rows = {row.variant: row for row in analyse(UNSEEN_SITE, "rehearsal", CONTENT, results)}
    assert rows[ours.name].dice == {"tnbc": pytest.approx(0.6)}
    lead = rows[ours.name].lead
    assert lead is not None
    assert (lead.estimate, lead.seeds) == (pytest.approx(0.05), 2)
    assert rows[first.name].lead is None
    report = Report("rehearsal", CONFIGURATION, UNSEEN_SITE)
    section = report.section(results, list(rows.values()))
    assert "2 of 3" in section
    assert "one seed" not in section
    report.write_study(tmp_path, results)
    document = json.loads((tmp_path / "study.json").read_text())
    assert document["study"] == "unseen-site"
    assert (tmp_path / "unseen-site.png").stat().st_size > 1000


def test_the_figure_of_noise_shows_the_change_from_the_same_loss_without_it(
    tmp_path: Path,
) -> None:
    results = {}
    for variant in FIGURE_10.variants:
        trial = FIGURE_10.trial("rehearsal", CONTENT, "histology", variant, seed=0)
        results[trial.name] = result_of(trial, {"tnbc": [0.7 - trial.plan.noise]})
    report = Report("rehearsal", CONFIGURATION, FIGURE_10)
    report.write_study(tmp_path, results)
    found = analyse(FIGURE_10, "rehearsal", CONTENT, results)
    assert "one seed, interval and p are over patients alone" in report.section(results, found)
    with (tmp_path / "figure10.csv").open() as file:
        rows = {r["variant"]: r for r in csv.DictReader(file) if r["group"] == "histology"}
    assert float(rows["L_fd, σ = 0.10"]["lead"]) == pytest.approx(-0.1)
    assert "σ of the noise" in (tmp_path / "figure10.svg").read_text()


def test_the_line_of_noise_is_over_the_seeds_that_have_noise_though_more_are_without() -> None:
    results = {}
    clear, noise = (named(FIGURE_10.variants, noisy("L_fd", sigma)) for sigma in (0.0, 0.1))
    for variant, seed, dice in ((clear, 0, 0.7), (clear, 1, 0.9), (noise, 0, 0.65)):
        trial = FIGURE_10.trial("rehearsal", CONTENT, "histology", variant, seed=seed)
        results[trial.name] = result_of(trial, {"tnbc": [dice]})
    rows = analyse(FIGURE_10, "rehearsal", CONTENT, results)
    rows = [row for row in rows if row.group == "histology"]
    (origin, point) = changes_by_noise(rows, "L_fd")
    assert origin == (0.0, 0.0)
    assert point == pytest.approx((0.1, -5.0))
    assert changes_by_noise(rows, "L_con") == []


def test_a_study_of_the_first_seeds_trains_these_and_no_others() -> None:
    study = staged_study("ablation-layers", "rehearsal", CONFIGURATION, Path())
    seeds = [trial.plan.seed for trial in study.agenda({})]
    assert set(seeds) == {0, 1, 2}
    first = study.of_first_seeds(2).agenda({})
    assert [t.name for t in first] == [t.name for t in study.agenda({}) if t.plan.seed in (0, 1)]


@pytest.mark.bad_input
def test_a_stage_that_a_study_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no stage tuning; that of baselines serves it"):
        staged_study("figure10", "tuning", CONFIGURATION, Path())
    open_still = CONFIGURATION.content.model_copy(update={"frozen": False})
    with pytest.raises(InvalidInput, match="opened once the configuration is frozen"):
        staged_study(
            "ablation-layers", "confirmatory", replace(CONFIGURATION, content=open_still), Path()
        )


# --- hospitals out of the parts of a site


def write_site(folder: Path, subsites: dict[str, str], *, column: str = "subsite") -> None:
    """One image a patient, of the subsite given."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    lines = [f"image,mask,patient,{column}"]
    for number, (patient, subsite) in enumerate(subsites.items()):
        picture = np.random.default_rng(number).integers(0, 255, (20, 20), dtype=np.uint8)
        mask = np.zeros((20, 20), dtype=np.uint8)
        mask[5:9, 5 : 9 + number % 3] = 255
        for kind, pixels in (("images", picture), ("masks", mask)):
            Image.fromarray(pixels).save(folder / kind / f"{patient}.png")
        lines.append(f"{patient}.png,{patient}.png,{patient},{subsite}")
    (folder / "patients.csv").write_text("\n".join(lines) + "\n")


def test_a_part_has_its_own_patients_and_none_that_are_confirmatory(tmp_path: Path) -> None:
    data = tmp_path / "data"
    devices = {f"b{n}": f"GE Logiq {5 + 2 * (n % 2)} @10 MHz" for n in range(20)}
    sources = {f"m{n}": ("AA" if n < 6 else "BB" if n < 12 else f"S{n}") for n in range(20)}
    write_site(data / "busbra", devices)
    write_site(data / "monuseg", sources)
    folder = make_hospitals(data, tmp_path / "out")
    # Again: a study that goes on makes them anew.
    assert make_hospitals(data, tmp_path / "out") == folder
    assert {path.name for path in folder.iterdir()} == {"busbra", "monuseg", *PARTS}
    aside = {p for drawn in draw_held_out(data, ("busbra", "monuseg")).values() for p in drawn}
    assert aside
    expected = {
        "busbra-logiq5": {p for p, d in devices.items() if "Logiq 5" in d},
        "busbra-logiq7": {p for p, d in devices.items() if "Logiq 7" in d},
        "monuseg-repeated": {p for p, s in sources.items() if s in ("AA", "BB")},
        "monuseg-single": {p for p, s in sources.items() if s not in ("AA", "BB")},
    }
    for part, patients in expected.items():
        site = open_site(part, folder, size=32, in_channels=1, seed=0, batch_size=2)
        assert {case.patient for case in site.all_cases} == patients - aside


@pytest.mark.bad_input
def test_a_site_whose_parts_are_unknown_is_named(tmp_path: Path) -> None:
    write_site(tmp_path / "data" / "monuseg", {f"m{n}": "A" for n in range(5)}, column="other")
    with pytest.raises(DataError, match=r"monuseg/patients.csv has no column subsite"):
        make_hospitals(tmp_path / "data", tmp_path / "out")

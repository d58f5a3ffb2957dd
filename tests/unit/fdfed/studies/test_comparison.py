"""The comparison: its configuration, the order of its trials, and what is concluded from them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from fdfed.config import preset
from fdfed.errors import InvalidInput
from fdfed.studies import TrialResult
from fdfed.studies.baselines.agenda import Stage, agenda, done, trial
from fdfed.studies.baselines.analysis import analyse, differences, patient_scores, site_means
from fdfed.studies.baselines.configuration import Comparison, Configuration, read_configuration
from fdfed.studies.baselines.files import Report
from fdfed.studies.page import END, begin_mark
from fdfed.studies.scored_images import ScoredImage

DOCUMENTS = Path(__file__).parents[4] / "docs" / "studies"
FILE = DOCUMENTS / "baselines.toml"


def content_of(**changes: Any) -> Comparison:
    """Four methods in two groups, two seeds and one."""
    values: dict[str, Any] = {
        "frozen": False,
        "awaited": "the tests",
        "seeds": {"primary": 2, "others": 1},
        "common": {"width": 2, "rounds": 3},
        "groups": {"one": {"sites": ["a", "b"], "crop": 16}, "two": {"sites": ["c"], "size": 32}},
        "methods": {
            "fdfed": {"role": "ours", "primary": True, "plan": {"strategy": "fdfed"}},
            "fd": {
                "role": "without",
                "primary": True,
                "follows": "fdfed",
                "plan": {"strategy": "fedavg", "loss": "fd"},
            },
            "local": {"role": "baseline", "primary": True, "plan": {"strategy": "local"}},
            "pooled": {"role": "baseline", "plan": {"strategy": "pooled"}},
        },
    }
    return Comparison.model_validate(values | changes)


# --- the file


def test_the_file_of_the_repository_has_every_row_of_the_protocol() -> None:
    content = read_configuration(FILE).content
    assert content.of_role("baseline") == (
        "fedavg", "fedbn", "pooled", "local", "fedprox", "fedavgm", "fedadam", "scaffold", "ditto",
        "fedavg+ft", "fedproto", "fedbcs", "fedavg+con", "fedavg+deeps", "pooled+con",
        "pooled+deeps",
    )  # fmt: skip
    assert content.of_role("reference") == ("pooled+fd", "sham", "paper")
    primary = {name for name, method in content.methods.items() if method.primary}
    assert primary == {"fdfed", "fd", "fedavg", "fedbn", "pooled", "local"}
    assert (content.seeds.primary, content.seeds.others) == (10, 3)


def test_all_methods_have_the_same_budget_batch_and_augmentation_and_candidates() -> None:
    content = read_configuration(FILE).content
    shared = ("rounds", "steps_per_round", "batch_size", "augment", "precision", "evaluate_every")
    for group in content.groups:
        plans = [trial("rehearsal", content, group, name, seed=0).plan for name in content.methods]
        for key in (*shared, "network", "width", "split"):
            assert len({str(getattr(plan, key)) for plan in plans}) == 1, key
    tuned = {name: len(method.candidates) for name, method in content.methods.items()}
    assert {count for name, count in tuned.items() if count} == {2}
    assert {name for name, count in tuned.items() if not count} == {"fd", "sham", "paper"}


def test_what_follows_our_method_differs_from_it_in_what_it_says_alone() -> None:
    content = read_configuration(FILE).content
    ours = content.methods["fdfed"].model_copy(update={"chosen": "alpha<=0.1"})
    changed = content.model_copy(update={"methods": content.methods | {"fdfed": ours}})
    plans = {
        name: trial("rehearsal", changed, "histology", name, seed=0).plan
        for name in ("fdfed", "fd", "sham")
    }
    assert plans["fdfed"].alpha.maximum == 0.1
    own = {"strategy": "fedavg", "loss": "fd"}
    assert plans["fd"] == plans["fdfed"].model_copy(update=own)
    assert plans["sham"] == plans["fdfed"]


def test_the_row_of_the_paper_is_its_preset() -> None:
    plan = trial("rehearsal", read_configuration(FILE).content, "histology", "paper", seed=0).plan
    said, found = preset("paper"), plan.model_dump(mode="json")
    assert plan.effective_loss == "fd+exch"
    for key in ("warm_start", "phase_2_start", "method"):
        assert found[key] == said[key]
    assert found["alpha"]["mode"] == "paper"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": {"x": {"role": "ours", "plan": {}}}}, "0 methods have the role without"),
        ({"unknown": 1}, "unknown: Extra inputs"),
        ({"methods": {"y": {"role": "ours", "plan": {}, "trainer": "moon"}}}, "no trainer moon"),
        (
            {"methods": {"y": {"role": "ours", "plan": {}, "candidates": {"a": {}}}}},
            "1 candidates; every tuned method has 2",
        ),
        ({"methods": {"y": {"role": "ours", "plan": {}, "chosen": "b"}}}, "not one of the cand"),
        ({"common": {"learning_rate": -1}}, "fedavg, base cannot be used:\n  learning_rate"),
    ],
)
def test_a_configuration_that_cannot_be_run_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    values = tomllib.loads(FILE.read_text(encoding="utf-8"))
    if "common" in change:
        values["methods"] = {"fedavg": values["methods"]["fedavg"]} | values["methods"]
    path = tmp_path / "c.toml"
    path.write_text(tomli_w.dumps(values | change), encoding="utf-8")
    with pytest.raises(InvalidInput, match=message):
        read_configuration(path)


# --- the order of the trials, and who opens whom


def test_the_confirmatory_patients_are_opened_by_a_frozen_configuration_alone() -> None:
    with pytest.raises(InvalidInput, match=r"frozen = false \(the tests\); use --stage rehearsal"):
        agenda("confirmatory", content_of())
    trials = agenda("confirmatory", content_of(frozen=True))
    assert {t.plan.split.held_out for t in trials} == {"confirmatory-1"}
    assert {t.plan.split.fold for t in trials} == {None}


def test_the_rehearsal_sets_the_confirmatory_patients_aside_and_tuning_has_no_test_images() -> None:
    rehearsal = agenda("rehearsal", content_of())
    assert {t.plan.split.set_aside for t in rehearsal} == {"confirmatory-1"}
    assert {t.plan.split.held_out for t in rehearsal} == {"rehearsal-1"}
    tuning = agenda("tuning", read_configuration(FILE).content)
    assert {t.plan.split.fold for t in tuning} == {0}
    assert not any(t.opens_test for t in tuning)


def test_primary_methods_come_first_seed_by_seed_in_all_groups() -> None:
    order = [(t.method, t.group, t.plan.seed) for t in agenda("rehearsal", content_of())]
    primary = [
        (method, group, seed)
        for seed in (0, 1)
        for method in ("fdfed", "fd", "local")
        for group in ("one", "two")
    ]
    assert order == [*primary, ("pooled", "one", 0), ("pooled", "two", 0)]


# --- what is concluded


def image(site: str, patient: str, dice: float | None, name: str = "i") -> ScoredImage:
    return ScoredImage(site=site, image=name, patient=patient, dice=dice, iou=dice)


def result_of(
    content: Comparison,
    group: str,
    method: str,
    seed: int,
    dice: Mapping[str, Mapping[str, float]],
) -> TrialResult:
    asked = trial("rehearsal", content, group, method, seed=seed)
    return TrialResult(
        name=asked.name,
        group=group,
        method=method,
        config="base",
        fold=0,
        seed=seed,
        steps=1,
        score=0.5,
        whole_seconds=10.0,
        bytes={"up": 1_000_000, "down": 2_000_000},
        images=[
            image(s, p, value) for s, patients in dice.items() for p, value in patients.items()
        ],
    )


PATIENTS = {"one": {"a": 3, "b": 4}, "two": {"c": 5}}


def scores(group: str, level: float, *, spread: float = 0.0) -> dict[str, dict[str, float]]:
    """Patients of every site around a level, the same ones for every method."""
    rng = np.random.default_rng(1)
    return {
        site: {
            f"p{n}": level + 0.1 * float(rng.random()) + spread * (-1) ** n for n in range(count)
        }
        for site, count in PATIENTS[group].items()
    }


def everything(content: Comparison, levels: Mapping[str, float]) -> dict[str, TrialResult]:
    found = [
        result_of(content, group, method, seed, scores(group, level + 0.01 * seed))
        for method, level in levels.items()
        for group in PATIENTS
        for seed in range(content.seeds_of(method))
    ]
    return {result.name: result for result in found}


def test_a_patients_score_is_the_mean_of_its_scored_images() -> None:
    images = [image("a", "p", dice) for dice in (0.2, 0.4, None)] + [image("a", "q", 1.0)]
    assert patient_scores(images, "dice") == {"a": {"p": pytest.approx(0.3), "q": 1.0}}


def test_differences_are_of_the_seeds_that_both_have_in_every_group() -> None:
    content = content_of()
    results = everything(content, {"fdfed": 0.7, "local": 0.6})
    missing = trial("rehearsal", content, "two", "local", seed=0).name
    del results[missing]
    found = done("rehearsal", content, results)
    pairs = [(found[group, "fdfed"], found[group, "local"]) for group in PATIENTS]
    values = differences(pairs)
    assert values is not None
    assert {site: v.shape for site, v in values.items()} == {"a": (1, 3), "b": (1, 4), "c": (1, 5)}
    assert all(v == pytest.approx(0.1) for v in values.values())
    assert differences([({}, found["one", "local"])]) is None


def test_a_row_has_its_sites_its_worst_site_and_its_gain_over_the_better_reference() -> None:
    content = content_of()
    levels = {"fdfed": 0.7, "fd": 0.65, "local": 0.6, "pooled": 0.62}
    analysis = analyse(content, done("rehearsal", content, everything(content, levels)))
    row = next(r for r in analysis.rows if (r.group, r.method) == ("one", "fdfed"))
    own = scores("one", 0.7)
    expected = {s: float(np.mean(list(p.values()))) + 0.005 for s, p in own.items()}
    assert row.dice == pytest.approx(expected)
    assert row.worst_site == pytest.approx(min(expected.values()))
    # On seed 0, which pooled has too: 0.7 - max(0.6, 0.62).
    assert row.gain == pytest.approx(0.08)
    assert (row.seeds, row.asked, row.bytes, row.seconds) == (2, 2, 3e6, 10.0)
    assert row.epsilon is None


def test_alpha_is_the_mean_over_seeds_and_no_row_has_one_that_is_zero_everywhere() -> None:
    content = content_of()
    results = {
        name: replace(
            result,
            alpha={"Enc1": 0.002 * (1 + result.seed) * (result.method == "fdfed"), "Bot": 0.0},
        )
        for name, result in everything(content, {"fdfed": 0.7, "local": 0.6}).items()
    }
    analysis = analyse(content, done("rehearsal", content, results))
    alpha = {row.method: row.alpha for row in analysis.rows if row.group == "one"}
    # Two seeds: (0.002 + 0.004) / 2.
    assert alpha["fdfed"] == pytest.approx({"Enc1": 0.003, "Bot": 0.0})
    assert alpha["local"] == alpha["pooled"] == {}
    section = report_of(content).section(results, analysis)
    assert "| one | fdfed | 0.0030 | 0.0000 |" in section
    assert "| one | local | 0.0" not in section


def test_what_is_recovered_is_the_way_from_local_to_pooled_training() -> None:
    content = content_of()
    levels = {"fdfed": 0.7, "fd": 0.615, "local": 0.6, "pooled": 0.62}
    analysis = analyse(content, done("rehearsal", content, everything(content, levels)))
    found = {row.method: row.recovered for row in analysis.rows if row.group == "one"}
    # (0.7 - 0.6) / (0.62 - 0.6); what has no trial has no figure.
    assert found["fdfed"] == pytest.approx(5.0)
    assert found["fd"] == pytest.approx(0.75)
    assert (found["local"], found["pooled"]) == (pytest.approx(0.0), pytest.approx(1.0))
    levels |= {"pooled": 0.6}
    level = analyse(content, done("rehearsal", content, everything(content, levels)))
    assert {row.recovered for row in level.rows} == {None}


def test_both_hypotheses_are_confirmed_where_every_patient_gains() -> None:
    content = content_of()
    levels = {"fdfed": 0.7, "fd": 0.65, "local": 0.6, "pooled": 0.62}
    analysis = analyse(content, done("rehearsal", content, everything(content, levels)))
    first, second = analysis.hypotheses
    # Twelve patients who all gain: one of 2^12 swaps is as good, the observed one.
    assert first.p == second.p == pytest.approx(2**-12)
    assert first.adjusted == pytest.approx(2 * 2**-12)
    assert first.complete
    assert second.complete
    lead = analysis.lead("local")
    assert lead is not None
    assert (lead.estimate, lead.low, lead.high) == pytest.approx((0.1, 0.1, 0.1))


def test_one_baseline_that_is_not_beaten_decides_the_second_hypothesis() -> None:
    content = content_of()
    levels = {"fdfed": 0.7, "fd": 0.65, "local": 0.75, "pooled": 0.62}
    analysis = analyse(content, done("rehearsal", content, everything(content, levels)))
    assert analysis.hypotheses[1].p == pytest.approx(1.0)
    assert analysis.hypotheses[0].p == pytest.approx(2**-12)


def test_a_missing_cell_leaves_a_hypothesis_undecided() -> None:
    content = content_of()
    levels = {"fdfed": 0.7, "fd": 0.65, "local": 0.6}
    analysis = analyse(content, done("rehearsal", content, everything(content, levels)))
    first, second = analysis.hypotheses
    assert first.complete
    assert not second.complete
    empty = next(r for r in analysis.rows if r.method == "pooled")
    assert (empty.seeds, empty.mean_dice, empty.bytes) == (0, None, None)


def test_seeds_are_averaged_before_patients_are_compared() -> None:
    content = content_of()
    results = everything(content, {"fdfed": 0.7})
    trials = done("rehearsal", content, results)["two", "fdfed"]
    by_seed = [site_means({s: t}, [s])["c"] for s, t in trials.items()]
    assert site_means(trials, trials)["c"] == pytest.approx(np.mean(by_seed))


# --- what is left of it


def report_of(content: Comparison, stage: Stage = "rehearsal") -> Report:
    return Report(stage, Configuration(content, "ab" * 32))


def test_the_study_leaves_tables_a_figure_and_numbers_that_a_script_can_read(
    tmp_path: Path,
) -> None:
    content = content_of()
    levels = {"fdfed": 0.7, "fd": 0.65, "local": 0.6}
    report_of(content).write_study(tmp_path, everything(content, levels))
    document = json.loads((tmp_path / "study.json").read_text())
    assert document["configuration_sha256"] == "ab" * 32
    assert document["hypotheses"][0]["p"] == pytest.approx(2**-12)
    lead = next(e for e in document["leads"] if e["over"] == "fd" and len(e["groups"]) == 2)
    assert lead["compared"]["estimate"] == pytest.approx(0.05)
    for name in ("baselines.csv", "baselines-images.csv", "baselines-leads.csv"):
        assert len((tmp_path / name).read_text().splitlines()) > 1
    for suffix in ("svg", "png"):
        assert (tmp_path / f"baselines.{suffix}").stat().st_size > 1000


def test_the_page_says_what_is_missing_and_confirms_nothing_of_it(tmp_path: Path) -> None:
    content = content_of()
    page = tmp_path / "baselines.md"
    page.write_text(f"Text\n{begin_mark('baselines')}\nold\n{END}\nmore\n")
    levels = {"fdfed": 0.7, "fd": 0.65, "local": 0.6}
    report_of(content).write_page(page, everything(content, levels))
    text = page.read_text()
    assert "old" not in text
    assert "**not frozen** (the tests), SHA-256 `abab" in text
    assert "12 of 14 trials are finished" in text
    assert "| H2 | fdfed has a higher Dice than each of 2 baselines | ≥ 0.000244 |" in text
    assert "cells are missing: not confirmed" in text
    assert "| pooled | 0 of 1 | – / – | – / – | – | – | – | – | – |" in text
    assert "rehearsal: test patients among those that are **not** confirmatory" in text
    # A repository holds no picture of this study but the vector one.
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".csv", ".svg"}


def test_a_study_without_a_trial_can_be_reported(tmp_path: Path) -> None:
    report_of(content_of()).write_study(tmp_path, {})
    assert json.loads((tmp_path / "study.json").read_text())["hypotheses"][0]["p"] is None


def test_tuning_reports_every_candidate(tmp_path: Path) -> None:
    content = read_configuration(FILE).content
    first = agenda("tuning", content)[0]
    result = result_of(content, "histology", first.method, 0, {})
    results = {first.name: result}
    report_of(content, "tuning").write_study(tmp_path, results)
    rows = (tmp_path / "baselines-tuning.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 18
    assert rows[1].startswith("fedavg,base,False,0.5,")

"""Tables, page and figure say what the trials say, and can be written again at any time."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from fdfed.errors import InvalidInput
from fdfed.studies import TrialResult
from fdfed.studies.defaults.curves import _comparable, mean_curve
from fdfed.studies.defaults.files import results_section, write_page, write_study
from fdfed.studies.diagnostics import TapDiagnostics
from fdfed.studies.page import END, begin_mark

TAP = TapDiagnostics(
    alpha=0.01,
    valid=0.5,
    seg_gradient=2.0,
    fd_gradient=4.0,
    exch_gradient=None,
    within=1.0,
    shift_foreground=0.5,
    shift_background=0.25,
    inner=0.1,
    apart_foreground=0.5,
    apart_background=0.25,
    drift_foreground=0.125,
    drift_background=0.0625,
)


def result_of(method: str, score: float | None, *, fold: int = 0, seed: int = 0) -> TrialResult:
    return TrialResult(
        name=f"{method}-{fold}-{seed}",
        group="histology",
        method=method,
        config="base",
        fold=fold,
        seed=seed,
        steps=100,
        score=score,
        site_scores={} if score is None else {"tnbc": score - 0.1, "monuseg": score + 0.1},
        slope=0.002,
        curve=((50, {"tnbc": 0.5, "monuseg": 0.7}), (100, {"tnbc": 0.6, "monuseg": 0.8})),
        taps={"Bot": TAP} if method == "fd" else {},
        seconds=1800.0,
        failure="" if score is not None else "diverged",
    )


@pytest.fixture
def results() -> dict[str, TrialResult]:
    entries = [
        result_of("fedavg", 0.70),
        result_of("fedavg", 0.74, fold=1),
        result_of("fd", 0.73),
        result_of("fd", 0.75, fold=1),
        result_of("fd", 0.9, fold=2),
        result_of("fd+gap", None),
    ]
    return {entry.name: entry for entry in entries}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "docs" / "page.md"
    path.parent.mkdir()
    path.write_text(f"# Above\n\n{begin_mark('defaults')}\nstale text\n{END}\n\nBelow\n")
    return path


def test_a_lead_is_over_the_same_folds_and_seeds(
    tmp_path: Path, results: dict[str, TrialResult]
) -> None:
    write_study(tmp_path, results)
    document = json.loads((tmp_path / "study.json").read_text())
    (fd,) = (row for row in document["configurations"] if row["method"] == "fd")
    # Fold 2 has no FedAvg trial: leads 0.03 and 0.01, mean 0.02, sd 0.02 / √2.
    assert fd["pairs"] == 2
    assert fd["lead"] == pytest.approx(0.02)
    assert fd["lead_sd"] == pytest.approx(0.02 / 2**0.5)
    assert fd["trials"] == 3


def test_every_trial_is_a_row_also_one_that_diverged(
    tmp_path: Path, results: dict[str, TrialResult]
) -> None:
    write_study(tmp_path, results)
    with (tmp_path / "defaults.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results)
    (lost,) = (row for row in rows if row["method"] == "fd+gap")
    assert (lost["score"], lost["failure"]) == ("", "diverged")
    assert {row["tnbc"] for row in rows if row["method"] == "fedavg"} == {"0.6", "0.64"}
    with (tmp_path / "defaults-taps.csv").open(newline="") as file:
        assert [row["drift_background"] for row in csv.DictReader(file)] == ["0.0625"] * 3


def test_the_finals_say_each_lead_with_its_interval_and_count_a_diverged_run_as_zero() -> None:
    entries = [
        result_of("fedavg", 0.70, seed=1),
        result_of("fedavg", 0.74, seed=2),
        result_of("fd", 0.73, seed=1),
        result_of("fd", 0.75, seed=2),
        result_of("fd+gap", 0.73, seed=1),
        result_of("fd+gap", None, seed=2),
    ]
    section = results_section({e.name: replace(e, config="final: base") for e in entries})
    # Leads 0.03 and 0.01: mean 0.02, standard error 0.01, and t at 0.975 with one degree is 12.706.
    assert (
        "| finalist | configuration | trials | lead over fedavg (base) | lead over fd (base) |"
        in (section)
    )
    assert "| fd | base | 2 | +2.0 (-10.7 to +14.7; 2) |  |" in section
    # 0.03 and -0.74: mean -0.355, standard error 0.385.
    assert "| fd+gap | base | 2 | -35.5 (-524.7 to +453.7; 2) | -37.5 (" in section


def test_only_the_section_between_the_marks_is_rewritten(
    page: Path, results: dict[str, TrialResult]
) -> None:
    write_page(page, results)
    once = page.read_text()
    assert once.startswith("# Above\n")
    assert once.endswith(f"{END}\n\nBelow\n")
    assert "stale text" not in once
    assert "6 trials are finished (1 of them diverged), 3.0 hours" in once
    # α · |∇L_fd| / |∇L_seg| = 0.01 · 4 / 2.
    assert "| Bot | 0.0100 | 50 % | 0.020 | – |" in once
    write_page(page, results)
    assert page.read_text() == once


def test_the_figure_has_the_means_over_sites_and_trials(
    tmp_path: Path, results: dict[str, TrialResult]
) -> None:
    fedavg = [result for result in results.values() if result.method == "fedavg"]
    assert mean_curve(fedavg) == ([50, 100], [pytest.approx(60), pytest.approx(70)])
    write_study(tmp_path, results)
    assert "<svg" in (tmp_path / "defaults-curves.svg").read_text()


def test_curves_are_compared_on_the_folds_that_all_methods_have() -> None:
    trials = [result_of("fedavg", 0.7), result_of("fedavg", 0.7, fold=1), result_of("fd", 0.7)]
    chosen = _comparable([*trials, result_of("local", 0.7, fold=1)], ["fedavg", "fd", "fd+gap"])
    assert [(trial.method, trial.fold) for trial in chosen] == [("fedavg", 0), ("fd", 0)]


def test_a_study_without_trials_has_tables_too(tmp_path: Path, page: Path) -> None:
    write_study(tmp_path, {})
    write_page(page, {})
    assert "0 trials are finished" in page.read_text()


def test_a_page_without_the_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("nothing here")
    with pytest.raises(InvalidInput, match="results: written by"):
        write_page(tmp_path / "page.md", {})

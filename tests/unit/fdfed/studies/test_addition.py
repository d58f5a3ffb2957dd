"""The data-addition study: nested additions, the base site alone as the test, bounds on harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdfed.config import warm_rounds
from fdfed.studies import Trial, TrialResult
from fdfed.studies.addition.agenda import (
    PAIRS,
    PROTOCOLS,
    SEEDS,
    addition_trial,
    agenda,
    base_trial,
)
from fdfed.studies.addition.analysis import analyse
from fdfed.studies.addition.files import Report
from fdfed.studies.addition.published import DICE, TICKS
from fdfed.studies.baselines.configuration import read_configuration
from fdfed.studies.five_losses import FIVE_LOSSES
from fdfed.studies.page import END, begin_mark
from fdfed.studies.scored_images import ScoredImage

CONFIGURATION = read_configuration(Path(__file__).parents[4] / "docs/studies/baselines.toml")
CONTENT = CONFIGURATION.content
HISTOLOGY, ULTRASOUND = PAIRS


def test_every_loss_meets_every_addition_in_both_protocols() -> None:
    trials = agenda("rehearsal", CONTENT)
    assert len({trial.name for trial in trials}) == len(trials) - 2 * 4 * SEEDS
    # Base alone is the same trial in both protocols: four of it, as an exchange needs a peer.
    for pair, additions in ((HISTOLOGY, 5), (ULTRASOUND, 9)):
        own = [t for t in trials if t.group == pair.group and t.plan.seed == 0]
        assert sum(t.config == "base alone" for t in own) == 2 * 4
        assert sum(bool(t.shares) for t in own) == 2 * 5 * additions


def test_the_novel_site_alone_is_cut_and_joins_at_the_end_of_phase_1() -> None:
    quarter = HISTOLOGY.additions[2]
    warm = warm_rounds(int(CONTENT.common["rounds"]))
    for loss in FIVE_LOSSES:
        for protocol in PROTOCOLS:
            trial = addition_trial(
                "rehearsal", CONTENT, HISTOLOGY, protocol, loss, addition=quarter, seed=0
            )
            assert trial.plan.sites == ("tnbc", "monuseg")
            assert trial.shares == {"monuseg": 0.25}
            assert trial.joins_after == (warm if protocol == "joining" else 0)
    assert [a.share for a in ULTRASOUND.additions[5:]] == [15, 30, 45, 60]


def test_the_exchange_is_set_against_the_base_that_trains_l_fd() -> None:
    exchange = base_trial("rehearsal", CONTENT, HISTOLOGY, "L_fd+L_exch", seed=0)
    assert exchange == base_trial("rehearsal", CONTENT, HISTOLOGY, "L_fd", seed=0)
    assert exchange.plan.sites == ("tnbc",)
    assert exchange.plan.loss == "fd"


def result_of(trial: Trial, base: list[float], *, novel: float = 0.1) -> TrialResult:
    """Patients of the base site with these scores, and one of the novel site, which counts not."""
    sites = trial.plan.sites
    images = [
        ScoredImage(site=sites[0], image=f"i{n}", patient=f"p{n}", dice=dice, iou=dice)
        for n, dice in enumerate(base)
    ]
    if len(sites) > 1:
        images.append(ScoredImage(site=sites[1], image="x", patient="x", dice=novel, iou=novel))
    return TrialResult(
        name=trial.name,
        group=trial.group,
        method=trial.method,
        config=trial.config,
        fold=0,
        seed=trial.plan.seed,
        steps=1,
        score=0.5,
        site_scores={sites[0]: 0.6},
        curve=[(10, {sites[0]: 0.65}), (20, dict.fromkeys(sites, 0.6))],
        images=images,
    )


def results_of(
    changes: list[float], protocol: str = "scratch", loss: str = "L_fd"
) -> dict[str, TrialResult]:
    """Base alone at 0.7 and 0.8, and the additions of histology changed by so much."""
    found = {}
    for seed in range(SEEDS):
        alone = base_trial("rehearsal", CONTENT, HISTOLOGY, loss, seed=seed)
        found[alone.name] = result_of(alone, [0.7, 0.8])
        for addition, change in zip(HISTOLOGY.additions, changes, strict=False):
            trial = addition_trial(
                "rehearsal", CONTENT, HISTOLOGY, protocol, loss, addition=addition, seed=seed  # type: ignore[arg-type]
            )  # fmt: skip
            found[trial.name] = result_of(trial, [0.7 + change, 0.8 + change])
    return found


def verdict_of(results: dict[str, TrialResult], loss: str = "L_fd") -> tuple[object, object]:
    _, verdicts = analyse("rehearsal", CONTENT, results)
    entry = next(
        v for v in verdicts if (v.pair, v.protocol, v.loss) == (HISTOLOGY, "scratch", loss)
    )
    return entry.never_harmful, entry.bound


def test_a_change_is_that_of_the_base_sites_patients_alone() -> None:
    cells, _ = analyse("rehearsal", CONTENT, results_of([0.02, -0.01]))
    own = [c for c in cells if (c.pair, c.protocol, c.loss) == (HISTOLOGY, "scratch", "L_fd")]
    assert [c.addition for c in own] == ["alone", "1/16", "1/8", "1/4", "1/2", "all"]
    assert own[0].dice == pytest.approx(0.75)
    assert [c.change for c in own[1:3]] == pytest.approx([0.02, -0.01])
    assert [c.change for c in own[3:]] == [None, None, None]


def test_never_harmful_asks_every_addition_and_every_cell() -> None:
    assert verdict_of(results_of([0.01, 0.0, 0.01, -0.004, 0.02])) == (True, pytest.approx(-0.004))
    assert verdict_of(results_of([0.01, 0.0, 0.01, -0.006, 0.02])) == (False, pytest.approx(-0.006))
    assert verdict_of(results_of([0.01, 0.0])) == (None, pytest.approx(0.0))
    assert verdict_of({}) == (None, None)


def test_forgetting_is_what_the_base_lost_since_the_other_joined() -> None:
    cells, _ = analyse("rehearsal", CONTENT, results_of([0.01], protocol="joining"))
    cell = next(c for c in cells if c.protocol == "joining" and c.addition == "1/16" and c.seeds)
    assert cell.forgetting == pytest.approx(0.65 - 0.6)


def test_the_published_curves_have_a_value_a_tick_and_begin_with_table_2() -> None:
    for title, ticks in TICKS.items():
        assert set(DICE[title]) == set(FIVE_LOSSES)
        assert {len(values) for values in DICE[title].values()} == {len(ticks)}
    # Table 2: NuSegNet on TNBC 81.69 and 82.65, CMUNet on US-TNBC 49.59 and 50.22.
    first, second = DICE.values()
    assert (first["no L_fd"][0], first["L_fd"][0]) == pytest.approx((81.69, 82.65), abs=0.3)
    assert (second["no L_fd"][0], second["L_fd"][0]) == pytest.approx((49.59, 50.22), abs=0.3)


def test_the_page_has_every_cell_and_the_published_values_apart(tmp_path: Path) -> None:
    page = tmp_path / "data-addition.md"
    page.write_text(f"{begin_mark('data-addition')}\n{END}\n")
    report = Report("rehearsal", CONFIGURATION)
    report.write_page(page, results_of([0.02, -0.01]))
    text = page.read_text()
    assert "| L_fd | 75.0 | 77.0 (+2.0) | 74.0 (-1.0) | – | – | – |" in text
    assert "| tnbc + monuseg | scratch | L_fd | -1.0 | not known: cells are missing |" in text
    assert "### Published" in text
    assert (tmp_path / "data-addition-scratch.svg").exists()
    report.write_study(tmp_path, results_of([0.02, -0.01]))
    assert (tmp_path / "data-addition-scratch.png").stat().st_size > 1000

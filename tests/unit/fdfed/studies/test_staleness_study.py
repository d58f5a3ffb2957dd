import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from fdfed.exchange import CotangentFrame, ExchangeStats, PrototypeFrame, StepKey, TapLayout
from fdfed.studies.catalogue import STUDIES
from fdfed.studies.cotangents import CotangentLog, LagError, read_errors
from fdfed.studies.page import END, begin_mark
from fdfed.studies.staleness import agenda as staleness
from fdfed.studies.staleness.files import write_page, write_study
from fdfed.studies.trials import TrialResult
from fdfed.studies.trials.phase_one import phase_1_key

LAYOUT = TapLayout(("Enc1", "Bot"), (1, 1))


class Scripted:
    """Answers with the replies it was given, one after the other."""

    def __init__(self, replies: list[CotangentFrame | None]) -> None:
        self.replies = replies

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        return self.replies.pop(0)

    def take_stats(self) -> ExchangeStats:
        return ExchangeStats(steps=3)

    def close(self) -> None: ...


def reply(step: int, *values: float, server_round: int = 1) -> CotangentFrame:
    key = StepKey("run", server_round, 1, step)
    return CotangentFrame(key, np.array(values), np.zeros(2), np.zeros(2), 1)


def errors_of(replies: list[CotangentFrame | None]) -> dict[str, dict[int, LagError]]:
    log = CotangentLog(LAYOUT)
    exchange = log.watch(Scripted(list(replies)))
    frame = PrototypeFrame(StepKey("run", 1, 1, 0), np.zeros(4), np.ones(2, np.bool_))
    for expected in replies:
        assert exchange.swap(frame) is expected
    assert exchange.take_stats().steps == 3
    return log.summary()


def test_the_error_of_an_older_cotangent_is_relative_to_todays_and_by_tap() -> None:
    # Packed as (F of Enc1, F of Bot, B of Enc1, B of Bot). Enc1: (3, 4), then (0, 5): difference
    # (3, -1), √10 over 5; cosine 20 / 25. Bot is without a cotangent in the first reply.
    found = errors_of([reply(0, 3.0, 0.0, 4.0, 0.0), reply(1, 0.0, 1.0, 5.0, 1.0)])
    assert list(found) == ["Enc1"]
    (entry,) = found["Enc1"].values()
    assert math.isclose(entry.error, math.sqrt(10) / 5)
    assert math.isclose(entry.cosine, 0.8)
    assert entry.count == 1


def test_lags_count_steps_of_one_round_and_a_reply_that_serves_twice_counts_once() -> None:
    one = (1.0, 1.0, 1.0, 1.0)
    replies = [reply(0, *one), None, reply(3, *one), reply(3, *one), reply(0, *one, server_round=2)]
    found = errors_of(replies)
    assert {tap: list(lags) for tap, lags in found.items()} == {"Enc1": [3], "Bot": [3]}
    assert found["Enc1"][3].count == 1


def test_trials_of_a_fold_and_seed_share_their_first_phase_and_read_no_test_image() -> None:
    trials = staleness.agenda({})
    assert len(trials) == staleness.FOLDS * staleness.SEEDS * (1 + len(staleness.BOUNDS))
    assert len({trial.name for trial in trials}) == len(trials)
    first = trials[: 1 + len(staleness.BOUNDS)]
    assert len({phase_1_key(trial.plan) for trial in first}) == 1
    assert {(t.plan.exchange.max_staleness, t.plan.exchange.delay_steps) for t in first} == {
        (bound, float(bound)) for bound in staleness.BOUNDS
    }
    assert all(t.plan.split.held_out and t.plan.split.fold is not None for t in trials)


def test_waiting_is_what_the_rule_gives_by_hand() -> None:
    # In lockstep a delay of one step makes every step take two. With d = 1 the first step alone
    # waits: 1 of 1 + 4.
    assert staleness.waiting(0, 1.0, steps=4) == (0.5, 0.0)
    assert staleness.waiting(1, 1.0, steps=4) == (0.2, 0.75)


def result_of(config: str, fold: int, score: float | None) -> TrialResult:
    trial = staleness.trial(config, fold=fold, seed=0)
    errors = {"Enc1": {1: LagError(0.25, 0.5, 0.9, 10)}}
    return TrialResult(
        name=trial.name,
        group=trial.group,
        method=trial.method,
        config=config,
        fold=fold,
        seed=0,
        steps=280,
        score=score,
        site_scores={"tnbc": 0.5, "monuseg": 0.6},
        exchange={"staleness_mean": 1.5, "staleness_max": 2, "answered": 8, "dropped": 1}
        if config != staleness.NO_EXCHANGE
        else {},
        cotangents=errors if config != staleness.NO_EXCHANGE else {},
    )


@pytest.fixture
def results() -> dict[str, TrialResult]:
    made = [
        result_of(config, fold, 0.6 + 0.1 * fold + shift)
        for config, shift in (("no exchange", -0.01), ("d=0", 0.0), ("d=2", 0.02))
        for fold in (0, 1)
    ]
    return {result.name: result for result in made}


def test_the_study_leaves_tables_a_figure_and_a_document(
    tmp_path: Path, results: dict[str, TrialResult]
) -> None:
    write_study(tmp_path, results)
    rows = list(csv.DictReader((tmp_path / "staleness.csv").read_text().splitlines()))
    assert [row["config"] for row in rows] == ["no exchange"] * 2 + ["d=0"] * 2 + ["d=2"] * 2
    assert (rows[-1]["staleness_mean"], rows[-1]["dropped"]) == ("1.5", "1")
    document = json.loads((tmp_path / "study.json").read_text())
    assert (document["study"], document["done"]) == ("staleness", 6)
    (late,) = (row for row in document["configurations"] if row["config"] == "d=2")
    assert math.isclose(late["lead"], 0.02)
    assert late["pairs"] == 2
    assert (tmp_path / "staleness.svg").read_text().startswith("<?xml")
    assert (tmp_path / "staleness.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_keeps_its_words_and_gets_the_results(
    tmp_path: Path, results: dict[str, TrialResult]
) -> None:
    page = tmp_path / "staleness.md"
    page.write_text(f"# Above\n\n{begin_mark('staleness')}\nold\n{END}\n\nBelow\n")
    write_page(page, results)
    text = page.read_text()
    assert text.startswith("# Above")
    assert text.endswith("Below\n")
    assert "| d=2 | 2 | 67.0 ± 7.1 | +2.0 ± 0.0 (2) | 1.50 | 2 |" in text
    assert "| Enc1 | 0.25 (0.90) |" in text


def test_a_study_without_a_trial_yet_still_writes_its_files(tmp_path: Path) -> None:
    write_study(tmp_path, {})
    assert json.loads((tmp_path / "study.json").read_text())["done"] == 0
    assert not (tmp_path / "staleness.svg").exists()


def test_errors_survive_their_way_through_json() -> None:
    errors = {"Enc1": {1: LagError(0.25, 0.5, 0.9, 10)}}
    written = {"Enc1": {"1": {"error": 0.25, "error_q90": 0.5, "cosine": 0.9, "count": 10}}}
    assert read_errors(written) == errors


def test_every_study_of_the_command_is_in_the_catalogue() -> None:
    assert set(STUDIES) >= {"defaults", "staleness"}

"""A trial is scored over its plateau, survives being cut, and keeps only what is worth keeping."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fdfed.config import RunPlan
from fdfed.data import write_phantoms
from fdfed.errors import DataError, InvalidInput
from fdfed.evaluation.results import RoundRecord
from fdfed.simulation import Progress, open_sites, simulate_sites
from fdfed.studies import Trial, TrialResult, folder_of, load_results, run_agenda, run_trial
from fdfed.studies.schedule import _without_waste, shelf_of
from fdfed.studies.trials.phase_one import left_by, phase_1_key
from fdfed_server.observer import Observer
from fdfed_server.run_state import load_state
from tests.plans import PHASED

SITES = ("tnbc", "monuseg")


def trial_of(method: str = "fd+exch", /, **changes: Any) -> Trial:
    values: dict[str, Any] = {
        "sites": SITES,
        "width": 2,
        "crop": 16,
        "batch_size": 2,
        "rounds": 5,
        "steps_per_round": 1,
        "strategy": "fdfed",
        "split": {"held_out": "test", "fold": 0, "folds": 2},
        "phantoms": True,
    }
    plan = RunPlan.model_validate(PHASED | values | changes)
    return Trial("histology", method, "base", plan, diagnosed=True)


OTHER_ALPHA = trial_of("fd", strategy="fedavg", loss="fd", alpha={"mode": "fixed", "value": 0.02})
AVERAGING = trial_of("fedavg", strategy="fedavg", loss="seg")
ON = {"phase_2_start": "last"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for site in SITES:
        write_phantoms(folder, site, images=16, size=32)
    return folder


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    run_trial(folder_of(out, trial_of()), trial_of(), data)
    return out


def only(out: Path) -> TrialResult:
    (result,) = load_results(out).values()
    return result


def test_the_score_is_the_mean_of_the_last_fifth_over_validations_then_sites(
    finished: Path,
) -> None:
    result = only(finished)
    # Five validations, one a step: the last fifth is the last of them, the fifth before the 4th.
    assert [steps for steps, _ in result.curve] == [1, 2, 3, 4, 5]
    last, before = result.curve[-1][1], result.curve[-2][1]
    assert result.site_scores == last
    assert result.score == pytest.approx(sum(last.values()) / 2)
    assert result.slope == pytest.approx((sum(last.values()) - sum(before.values())) / 2)


def test_a_trial_tells_what_happens_at_every_tap(finished: Path) -> None:
    taps = only(finished).taps
    assert next(iter(taps)) == "Enc1"
    for tap in taps.values():
        assert 0 <= tap.valid <= 1
        assert tap.exch_gradient is not None
        assert tap.seg_gradient > 0
        # Models that differ by one local round lie close, and not on each other.
        assert tap.drift_foreground >= 0
    assert any(tap.drift_foreground > 0 for tap in taps.values())
    # Sites of different images: their prototypes differ under one model.
    assert any(tap.shift_background > 0 for tap in taps.values())


def test_weights_and_optimiser_states_are_removed_and_the_curve_stays(finished: Path) -> None:
    folder = folder_of(finished, trial_of())
    assert not (folder / "run" / "state").exists()
    assert (folder / "run" / "results.json").exists()
    assert json.loads((folder / "trial.json").read_text())["method"] == "fd+exch"


def test_a_finished_trial_is_not_run_again(finished: Path, tmp_path: Path) -> None:
    # A folder without data would be an error if anything were opened.
    run_trial(folder_of(finished, trial_of()), trial_of(), tmp_path / "no data")


class CutAfter(Observer):
    """Interrupts a run once it has `rounds` rounds."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def round_finished(self, record: RoundRecord) -> None:
        if record.round == self.rounds:
            raise KeyboardInterrupt


@pytest.mark.parametrize("rounds", [1, 3, 5])
def test_a_trial_that_was_cut_ends_as_one_that_was_not(
    rounds: int, data: Path, finished: Path, tmp_path: Path
) -> None:
    trial = trial_of()
    folder = folder_of(tmp_path, trial)
    with pytest.raises(KeyboardInterrupt):
        run_trial(folder, trial, data, progress=Progress(observer=CutAfter(rounds)))
    assert not load_results(tmp_path)
    run_trial(folder, trial, data)
    again, whole = only(tmp_path), only(finished)
    # Cotangents are measured as they come, so those before the cut are missing.
    assert _timeless(replace(again, cotangents={})) == _timeless(replace(whole, cotangents={}))


def test_diagnosing_a_trial_changes_neither_its_name_nor_its_scores(
    finished: Path, data: Path, tmp_path: Path
) -> None:
    run_trial(folder_of(tmp_path, trial_of()), replace(trial_of(), diagnosed=False), data)
    plain, diagnosed = only(tmp_path), only(finished)
    assert plain.taps == {}
    assert (plain.name, plain.curve) == (diagnosed.name, diagnosed.curve)


def test_a_trial_that_would_open_test_images_is_refused(data: Path, tmp_path: Path) -> None:
    trial = trial_of(split={"held_out": "test"})
    with pytest.raises(DataError, match="must be given a fold"):
        run_trial(tmp_path, trial, data)


def test_pooled_training_is_scored_on_the_pooled_folds(data: Path, tmp_path: Path) -> None:
    trial = trial_of("pooled", strategy="pooled")
    run_trial(folder_of(tmp_path, trial), trial, data)
    assert list(only(tmp_path).site_scores) == ["pooled"]
    assert only(tmp_path).taps == {}


class Listening:
    def __init__(self) -> None:
        self.scores: list[float | None] = []

    def looked(self, *_: object) -> None:
        pass

    def finished(self, _: Trial, result: TrialResult) -> None:
        self.scores.append(result.score)


@pytest.mark.slow
def test_an_agenda_is_run_in_processes_and_stops_where_it_is_told(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    listening = Listening()
    trials = [trial_of(), trial_of("fedavg", strategy="fedavg", rounds=2)]

    def go(agenda: list[Trial], seconds: float) -> bool:
        return run_agenda(
            lambda _: agenda,
            data=data,
            out=tmp_path,
            workers=2,
            stop_after_seconds=seconds,
            watcher=listening,
        )

    assert go(trials[:1], 60.0)
    # The process computes what this one did, bit for bit.
    assert listening.scores == [only(finished).score]
    assert not go(trials, 0.0)
    assert len(load_results(tmp_path)) == 1


def test_two_studies_do_not_work_in_one_folder(data: Path, tmp_path: Path) -> None:
    class Nested(Listening):
        def looked(self, *_: object) -> None:
            with pytest.raises(InvalidInput, match="another study"):
                run_agenda(
                    lambda _: [],
                    data=data,
                    out=tmp_path,
                    workers=1,
                    stop_after_seconds=0.0,
                    watcher=self,
                )
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_agenda(
            lambda _: [trial_of()],
            data=data,
            out=tmp_path,
            workers=1,
            stop_after_seconds=60.0,
            watcher=Nested(),
        )


def _timeless(result: TrialResult) -> TrialResult:
    return replace(result, seconds=0.0, whole_seconds=0.0)


@pytest.fixture(scope="module")
def wholes(
    data: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, TrialResult]:
    """Results of trials that trained their own phase 1, by what their phase 2 starts with."""
    out = tmp_path_factory.mktemp("going-on")
    run_trial(folder_of(out, trial_of(**ON)), trial_of(**ON), data)
    return {"best": only(finished), "last": only(out)}


@pytest.mark.parametrize("donor", [OTHER_ALPHA, AVERAGING], ids=lambda trial: trial.method)
@pytest.mark.parametrize("start", ["best", "last"])
def test_a_trial_that_takes_over_phase_1_ends_as_one_that_trained_it(
    donor: Trial, start: str, data: Path, wholes: Mapping[str, TrialResult], tmp_path: Path
) -> None:
    shelf, taker = tmp_path / "phase-1", trial_of()
    if start == "last":
        taker = trial_of(**ON)
        if donor is OTHER_ALPHA:
            donor = replace(donor, plan=donor.plan.model_copy(update=ON))
    run_trial(folder_of(tmp_path, donor), donor, data, shelf=shelf)
    run_trial(folder_of(tmp_path, taker), taker, data, shelf=shelf)
    taken = load_results(tmp_path)[taker.name]
    # Five rounds: 100/175 of them, rounded up, are phase 1.
    assert taken.shared_rounds == 3
    assert _timeless(replace(taken, shared_rounds=0)) == _timeless(wholes[start])
    assert load_results(tmp_path)[donor.name].shared_rounds == 0


def test_phases_1_are_shared_among_trials_with_the_same_part_of_the_images(
    data: Path, tmp_path: Path
) -> None:
    half, shelf = {"monuseg": 0.5}, tmp_path / "phase-1"
    taker = replace(trial_of(**ON), shares=half)
    run_trial(folder_of(tmp_path, AVERAGING), AVERAGING, data, shelf=shelf)
    run_trial(folder_of(tmp_path / "own", taker), taker, data, shelf=shelf)
    alone = only(tmp_path / "own")
    assert alone.shared_rounds == 0
    donor = replace(AVERAGING, shares=half)
    run_trial(folder_of(tmp_path, donor), donor, data, shelf=shelf)
    run_trial(folder_of(tmp_path, taker), taker, data, shelf=shelf)
    taken = load_results(tmp_path)[taker.name]
    assert taken.shared_rounds == 3
    assert _timeless(replace(taken, shared_rounds=0)) == _timeless(alone)


def test_a_phase_2_that_goes_on_with_alpha_at_zero_is_federated_averaging_bit_for_bit(
    data: Path, tmp_path: Path
) -> None:
    zero = {"loss": "fd", "strategy": "fedavg", "alpha": {"mode": "fixed", "value": 0.0}}

    def last_weights(plan: RunPlan) -> dict[str, bytes]:
        out = tmp_path / plan.digest
        simulate_sites(plan, open_sites(plan, data), out=out)
        state = load_state(out / "state" / "run")
        assert state is not None
        return {name: value.tobytes() for name, value in state.model.weights.items()}

    plain = last_weights(AVERAGING.plan)
    assert last_weights(trial_of(**zero, **ON).plan) == plain
    assert last_weights(trial_of(**zero).plan) != plain


def test_only_trials_with_the_same_phase_1_share_it() -> None:
    key = phase_1_key(trial_of().plan)
    assert key is not None
    for same in ({"alpha": {"maximum": 0.1}}, {"method": {"form": "gap"}}, {"loss": "fd"}):
        assert phase_1_key(trial_of(**same).plan) == key
    for other in ({"seed": 1}, {"rounds": 6}, {"norm": "group"}, {"learning_rate": 1e-4}):
        assert phase_1_key(trial_of(**other).plan) != key
    # Federated averaging never goes back to its best round; the others keep tensors at the sites.
    assert phase_1_key(AVERAGING.plan) is None
    assert phase_1_key(trial_of(strategy="fedbn", loss="fd").plan) is None


def test_federated_averaging_leaves_the_phase_1_that_it_passes_through() -> None:
    on = trial_of(**ON).plan
    assert phase_1_key(on) != phase_1_key(trial_of().plan)
    assert left_by(OTHER_ALPHA.plan) == ((phase_1_key(trial_of().plan),), 3)
    assert left_by(on) == ((phase_1_key(on),), 3)
    assert left_by(AVERAGING.plan) == ((phase_1_key(trial_of().plan), phase_1_key(on)), 3)
    # Round 3 is the last of phase 1, which a run with a phase 2 validates.
    seldom = AVERAGING.plan.model_copy(update={"evaluate_every": 2})
    assert left_by(seldom) is None
    assert left_by(trial_of("fedprox", strategy="fedprox", loss="seg").plan) is None


def test_kinds_of_device_share_no_phase_1(tmp_path: Path) -> None:
    places = {shelf_of(tmp_path, torch.device(kind)) for kind in ("cpu", "cuda", "cuda:1")}
    assert places == {tmp_path / "phase-1", tmp_path / "phase-1-cuda"}


@pytest.mark.bad_input  # a running trial without its process
def test_a_trial_does_not_train_the_phase_1_that_another_is_about_to_leave(tmp_path: Path) -> None:
    first, second = trial_of(), trial_of("fd+gap", method={"form": "gap"})
    other, plain = trial_of("fd", seed=1), trial_of("local", strategy="local", loss="seg")
    waiting = [second, other, plain]
    running: Any = {first.name: (first, None)}
    assert _without_waste(waiting, {}, tmp_path) == waiting
    assert _without_waste([first, second, plain], {}, tmp_path) == [first, plain, second]
    assert _without_waste(waiting, running, tmp_path) == [other, plain, second]
    assert _without_waste([AVERAGING, *waiting], {}, tmp_path) == [AVERAGING, other, plain, second]
    # Other images make another phase 1, and who is joined in the middle of it shares none.
    for apart in (replace(second, shares={"monuseg": 0.5}), replace(second, joins_after=2)):
        assert _without_waste([apart, other], running, tmp_path) == [apart, other]
    # A loop of the study's own leaves nothing, whatever its plan would make of a simulation.
    looped = replace(AVERAGING, trainer="scaffold", config="looped")
    asked = [looped, second, plain]
    assert _without_waste(asked, {}, tmp_path) == asked
    (tmp_path / str(phase_1_key(first.plan))).mkdir()
    assert _without_waste(waiting, running, tmp_path) == waiting

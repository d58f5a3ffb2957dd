"""Whole federations in one process: what they leave, and that faults and interruptions change
nothing of the result.

Long, because the cases share finished runs, which are what takes the time."""

from __future__ import annotations

import _thread
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flwr.app import Message

from fdfed.config import RunPlan
from fdfed.data import write_phantoms
from fdfed.errors import ConnectionFailed, DataError, InvalidInput, QuorumNotMet
from fdfed.evaluation.results import RoundRecord, RunResults
from fdfed.evaluation.results_files import load_per_image, load_results
from fdfed.simulation import Progress, open_sites, simulate, simulate_sites
from fdfed.training.model_file import read_header
from fdfed_server.observer import Observer
from fdfed_server.run_state import load_state
from tests.plans import PHASED

SITES = ("alpha", "beta")
STRATEGIES = ("fdfed", "fedavg", "fedprox", "fedbn", "local", "pooled")


def plan_of(**changes: object) -> RunPlan:
    values: dict[str, object] = {
        "sites": list(SITES),
        "width": 4,
        "size": 32,
        "rounds": 4,
        "steps_per_round": 2,
        "batch_size": 4,
        "min_count": 2,
    }
    return RunPlan.model_validate(PHASED | values | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for site in SITES:
        write_phantoms(folder, site, images=20, size=32)
    return folder


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an undisturbed run of a strategy; each is made once."""
    made: dict[str, Path] = {}

    def run(strategy: str) -> Path:
        if strategy not in made:
            made[strategy] = tmp_path_factory.mktemp(strategy)
            simulate(plan_of(strategy=strategy), data=data, out=made[strategy])
        return made[strategy]

    return run


def run(plan: RunPlan, *, data: Path | None, out: Path, **options: Any) -> RunResults:
    """`simulate` without the report, which takes longer than these runs themselves."""
    with mock.patch("fdfed.simulation.run.write_report"):
        return simulate(plan, data=data, out=out, **options)


def weights_of(path: Path) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in safetensors.numpy.load_file(path).items()}


def without_times(value: Any) -> Any:
    """A results document less what a clock measured."""
    clocks = {"seconds", "swap_ms_p50", "swap_ms_p99"}
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in clocks}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def results_of(out: Path) -> Any:
    return without_times(json.loads((out / "results.json").read_text()))


def assert_same_run(out: Path, expected: Path) -> None:
    assert results_of(out) == results_of(expected)
    models = sorted(str(path.relative_to(expected)) for path in expected.rglob("*.safetensors"))
    assert models
    for name in (n for n in models if not n.startswith("state")):
        assert weights_of(out / name) == weights_of(expected / name), name


class InterruptedAfter(Observer):
    """Ctrl-C as a round is complete, or as one begins."""

    def __init__(self, *, finished: int | None = None, started: int | None = None) -> None:
        self._finished, self._started = finished, started

    def round_started(self, server_round: int, phase: int, attempt: int) -> None:
        if server_round == self._started:
            raise KeyboardInterrupt

    def round_finished(self, record: RoundRecord) -> None:
        if record.round == self._finished:
            raise KeyboardInterrupt


# --- the same again


@pytest.mark.parametrize("strategy", ["fdfed", "fedbn"])
def test_the_same_plan_gives_the_same_bits(
    data: Path, finished: Callable[[str], Path], tmp_path: Path, strategy: str
) -> None:
    run(plan_of(strategy=strategy), data=data, out=tmp_path)
    assert_same_run(tmp_path, finished(strategy))


def test_late_replies_repeat_bit_for_bit_too_and_the_results_say_how_late_they_were(
    data: Path, tmp_path: Path
) -> None:
    plan = plan_of(rounds=2, steps_per_round=4, exchange={"max_staleness": 2, "delay_steps": 1.5})
    results = run(plan, data=data, out=tmp_path / "one")
    run(plan, data=data, out=tmp_path / "other")
    assert_same_run(tmp_path / "one", tmp_path / "other")
    # Replies take 1.5 steps: the first step of the round waits, then ages are 1, 2, 2.
    assert results.exchange.staleness_max == 2
    assert results.exchange.staleness_mean == (0 + 1 + 2 + 2) / 4
    assert results.exchange.dropped == 0
    entry = results.rounds[1].sites["alpha"]
    assert (entry.answered, entry.dropped, entry.staleness_max) == (4, 0, 2)
    rows = (tmp_path / "one" / "rounds.csv").read_text()
    assert "4,0,1.25,2," in rows


def test_another_seed_gives_other_weights(
    data: Path, finished: Callable[[str], Path], tmp_path: Path
) -> None:
    run(plan_of(seed=1), data=data, out=tmp_path)
    model = "model.safetensors"
    assert weights_of(tmp_path / model) != weights_of(finished("fdfed") / model)


@pytest.mark.parametrize(
    ("strategy", "stop"),
    [
        # Rounds 1 to 3 are phase 1, round 4 is phase 2.
        ("fdfed", {"finished": 1}),
        ("fdfed", {"finished": 3}),
        ("fdfed", {"finished": 4}),
        ("fdfed", {"started": 1}),
        ("fdfed", {"started": 4}),
        ("fedbn", {"finished": 2}),
        ("local", {"finished": 3}),
    ],
)
def test_a_run_that_was_interrupted_and_started_again_gives_the_bits_of_one_that_was_not(
    data: Path,
    finished: Callable[[str], Path],
    tmp_path: Path,
    strategy: str,
    stop: dict[str, int],
) -> None:
    plan = plan_of(strategy=strategy)
    with pytest.raises(KeyboardInterrupt):
        run(plan, data=data, out=tmp_path, progress=Progress(observer=InterruptedAfter(**stop)))
    assert not (tmp_path / "results.json").exists()
    run(plan, data=data, out=tmp_path)
    assert_same_run(tmp_path, finished(strategy))


@pytest.mark.timeout(120)
def test_a_run_in_half_precision_goes_on_after_an_interrupt_and_sends_half_the_bytes(
    data: Path, finished: Callable[[str], Path], tmp_path: Path
) -> None:
    plan = plan_of(strategy="fedavg", update_precision="bf16")
    stop = Progress(observer=InterruptedAfter(finished=2))
    with pytest.raises(KeyboardInterrupt):
        run(plan, data=data, out=tmp_path / "one", progress=stop)
    results = run(plan, data=data, out=tmp_path / "one")
    run(plan, data=data, out=tmp_path / "other")
    assert_same_run(tmp_path / "one", tmp_path / "other")
    whole = load_results(finished("fedavg") / "results.json")
    for record, full in zip(results.rounds, whole.rounds, strict=True):
        assert 0.5 * full.bytes.up < record.bytes.up < 0.52 * full.bytes.up
        assert record.bytes.down == full.bytes.down
    first, other = results.rounds[0], whole.rounds[0]
    for site in SITES:  # the same training, from the same weights
        assert first.sites[site].loss_seg == other.sites[site].loss_seg
        assert first.sites[site].drift == pytest.approx(other.sites[site].drift, rel=1e-3)
    model = "model.safetensors"
    assert weights_of(tmp_path / "one" / model) != weights_of(finished("fedavg") / model)


def test_an_interrupt_does_not_wait_until_the_sites_have_trained_the_round(
    data: Path, tmp_path: Path
) -> None:
    # A worker of a parallel test run ignores the interrupt, unless it is asked not to.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _interrupt_at_the_third_step(data, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt_at_the_third_step(data: Path, tmp_path: Path) -> None:
    steps: list[int] = []

    def on_step(site: str, server_round: int, done: int, total: int) -> None:
        steps.append(done)
        if len(steps) == 3:
            _thread.interrupt_main()

    plan = plan_of(steps_per_round=1_000_000)
    with pytest.raises(KeyboardInterrupt):
        run(plan, data=data, out=tmp_path, progress=Progress(on_step=on_step))
    assert max(steps) < 1000


def test_a_finished_run_that_is_started_again_trains_nothing(
    data: Path, finished: Callable[[str], Path]
) -> None:
    steps: list[int] = []
    before = results_of(finished("fedavg"))
    run(
        plan_of(strategy="fedavg"),
        data=data,
        out=finished("fedavg"),
        progress=Progress(on_step=lambda *step: steps.append(step[2])),
    )
    assert steps == []
    assert results_of(finished("fedavg")) == before


def test_a_folder_of_another_run_is_refused_by_the_names_of_what_differs(
    data: Path, finished: Callable[[str], Path]
) -> None:
    with pytest.raises(InvalidInput, match=r"differs in strategy, rounds|differs in rounds"):
        run(plan_of(strategy="fedavg", rounds=9), data=data, out=finished("fedavg"))


def test_the_phantoms_of_another_run_are_left_as_they_are(tmp_path: Path) -> None:
    plan = plan_of(rounds=1, strategy="fedavg")
    run(plan, data=None, out=tmp_path)
    before = {path: path.read_bytes() for path in sorted((tmp_path / "phantoms").rglob("*.*"))}
    with pytest.raises(InvalidInput, match="differs in seed"):
        run(plan.model_copy(update={"seed": 5}), data=None, out=tmp_path)
    assert before == {p: p.read_bytes() for p in sorted((tmp_path / "phantoms").rglob("*.*"))}


def test_phantoms_that_were_cut_off_while_they_were_written_are_written_anew(
    tmp_path: Path,
) -> None:
    folder = write_phantoms(tmp_path / "phantoms", "alpha", images=60, size=32)
    (folder / "PHANTOMS.json").unlink()
    (folder / "patients.csv").unlink()
    plan = plan_of(rounds=1, strategy="fedavg")
    assert run(plan, data=None, out=tmp_path).phantoms


# --- what each strategy leaves

CONTRACT = {
    "sites",
    "rounds",
    "alpha",
    "exchange",
    "bytes",
    "seconds",
    "privacy",
    "config",
    "versions",
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_leaves_the_files_that_scripts_rely_on(
    finished: Callable[[str], Path], strategy: str
) -> None:
    out = finished(strategy)
    document = json.loads((out / "results.json").read_text())
    assert set(document) >= CONTRACT
    assert set(document["sites"]) == set(SITES)
    for site in document["sites"].values():
        assert set(site) >= {"dice", "iou", "n_train", "n_val", "n_test"}
        assert 0 <= site["iou"] <= site["dice"] <= 1
        assert site["n_train"] + site["n_val"] + site["n_test"] == 20
        assert site["n_scored"] == site["n_test"]
    assert len(document["rounds"]) == 4
    assert set(document["exchange"]) >= {
        *("steps", "peers_mean", "bytes_up", "bytes_down", "swap_ms_p50")
    }
    assert document["config"] == json.loads(plan_of(strategy=strategy, phantoms=True).to_json())
    assert set(document["alpha"]) == {
        *("Enc1", "Enc2", "Enc3", "Enc4", "Bot", "Dec1", "Dec2", "Dec3", "Dec4")
    }
    assert document["seconds"]["total"] > 0
    assert document["versions"]["fdfed"]
    assert document["phantoms"] is True
    rows = load_per_image(out / "results.json")
    assert {row.site for row in rows} == set(SITES)
    assert len(rows) == sum(site["n_test"] for site in document["sites"].values())
    header, *lines = (out / "rounds.csv").read_text().splitlines()
    assert header.startswith("round,phase,attempt,site,")
    of_federation = 1 if strategy == "pooled" else len(SITES)
    assert len(lines) == 4 * of_federation
    assert "phantom" in (out / "report.html").read_text().lower()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_model_files_are_those_of_the_strategy(
    finished: Callable[[str], Path], strategy: str
) -> None:
    out = finished(strategy)
    own = sorted(path.stem for path in out.glob("models/*.safetensors"))
    assert own == (sorted(SITES) if strategy in ("local", "fedbn") else [])
    results = load_results(out / "results.json")
    assert (out / "model.safetensors").exists() == (strategy != "local")
    assert results.final_model == (None if strategy == "local" else "model.safetensors")
    if strategy != "local":
        header = read_header(out / "model.safetensors")
        assert (header.site, header.phantoms) == (None, True)
        assert header.round == results.model_round == results.best_round
        # Nothing vouches for FedBN's common weights: no site scored them alone.
        assert set(header.dice) == (set() if strategy == "fedbn" else set(SITES))
    for name in own:
        header = read_header(out / "models" / f"{name}.safetensors")
        assert header.site == name
        assert set(header.dice) == {name}
        assert header.dice[name].mean == results.sites[name].dice


def test_a_sites_own_model_is_that_of_its_own_best_round(finished: Callable[[str], Path]) -> None:
    out = finished("local")
    state = load_state(out / "state" / "run")
    assert state is not None
    rounds = load_results(out / "results.json").rounds
    for name in SITES:
        header = read_header(out / "models" / f"{name}.safetensors")
        dice = [record.sites[name].val_dice for record in rounds]
        assert header.round == state.site_best[name][0]
        assert dice[header.round - 1] == max(dice)


def test_sites_that_train_alone_differ_and_send_no_tensor(finished: Callable[[str], Path]) -> None:
    out = finished("local")
    one, other = (weights_of(out / "models" / f"{name}.safetensors") for name in SITES)
    assert one.keys() == other.keys()
    assert one != other
    results = load_results(out / "results.json")
    assert (results.bytes.up, results.bytes.down) == (0, 0)
    assert results.exchange.steps == 0


def test_fedbn_shares_all_but_the_normalisation(finished: Callable[[str], Path]) -> None:
    out = finished("fedbn")
    common = weights_of(out / "model.safetensors")
    one, other = (weights_of(out / "models" / f"{name}.safetensors") for name in SITES)
    norms = {n.rpartition(".")[0] for n in common if n.endswith("running_mean")}
    for name in common:
        if name.rpartition(".")[0] not in norms:
            assert one[name] == other[name] == common[name]
        elif not name.endswith("num_batches_tracked"):
            assert one[name] != other[name]


def test_the_exchange_counts_one_step_a_site_and_step_of_phase_2(
    finished: Callable[[str], Path],
) -> None:
    results = load_results(finished("fdfed") / "results.json")
    plan = plan_of()
    phase_2 = plan.rounds - plan.phase_1_rounds
    steps = len(SITES) * plan.steps_per_round * phase_2
    assert (results.exchange.steps, results.exchange.answered) == (steps, steps)
    assert results.exchange.peers_mean == 1
    # 2 · 2 · (4 + 8 + 16 + 32) + 2 · 64 numbers of 4 bytes, in each direction, besides the terms.
    assert results.exchange.bytes_up >= steps * 4 * (4 * 60 + 2 * 64)
    assert results.exchange.swap_ms_p50 is not None
    for record in results.rounds:
        known = [loss.exch for loss in record.losses.values() if loss.exch is not None]
        assert bool(known) == (record.phase == 2)


def test_phase_1_of_a_run_with_the_exchange_is_federated_averaging_bit_for_bit(
    finished: Callable[[str], Path],
) -> None:
    ours, plain = (load_results(finished(s) / "results.json").rounds for s in ("fdfed", "fedavg"))
    for one, other in zip(ours[:3], plain[:3], strict=True):
        for site in SITES:
            got, expected = one.sites[site], other.sites[site]
            assert (got.loss_seg, got.val_dice, got.drift) == (
                expected.loss_seg,
                expected.val_dice,
                expected.drift,
            )
        assert one.drift == other.drift


def test_pooled_training_makes_the_steps_of_all_sites_on_all_images(
    finished: Callable[[str], Path],
) -> None:
    results = load_results(finished("pooled") / "results.json")
    total = sum(site.n_train for site in results.sites.values())
    for record in results.rounds:
        assert {name: entry.num_examples for name, entry in record.sites.items()} == {
            "pooled": total
        }


def test_a_pooled_run_of_a_site_called_pooled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a site is called pooled"):
        run(plan_of(strategy="pooled", sites=["pooled", "beta"]), data=None, out=tmp_path)


@pytest.mark.parametrize("changes", [{"network": "vnet"}, {"size": 40}])
def test_a_plan_that_no_network_fits_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(InvalidInput):
        run(plan_of(**changes), data=None, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- faults


def dead_in(*rounds: int, kind: str = "train", answers: int = 0) -> Callable[[Message], bool]:
    """A node that is gone for the messages of `kind` in these rounds, after `answers` of them."""
    seen = 0

    def fault(message: Message) -> bool:
        nonlocal seen
        metadata = message.metadata
        if metadata.message_type != kind or int(metadata.group_id) not in rounds:
            return False
        seen += 1
        return seen > answers

    return fault


def test_a_site_that_is_dead_for_one_round_is_named_and_takes_part_in_the_next(
    data: Path, tmp_path: Path
) -> None:
    plan = plan_of(strategy="fedavg", quorum=1)
    results = run(plan, data=data, out=tmp_path, faults={"beta": dead_in(2)})
    entries = [record.sites["beta"] for record in results.rounds]
    assert [entry.refused for entry in entries] == [None, "node unavailable", None, None]
    assert [entry.num_examples is None for entry in entries] == [False, True, False, False]
    assert all(record.attempt == 1 for record in results.rounds)
    # Round 2 is the other site's update alone.
    assert results.rounds[1].drift == pytest.approx(0, abs=1e-6)
    assert results.rounds[2].drift > 0


def test_the_exchange_goes_on_without_a_site_that_died(data: Path, tmp_path: Path) -> None:
    plan = plan_of(rounds=5, quorum=1, exchange={"deadline_seconds": 0.2})
    assert [plan.phase(n) for n in (3, 4, 5)] == [1, 2, 2]
    results = run(plan, data=data, out=tmp_path, faults={"beta": dead_in(4)})
    # Both of alpha's steps of round 4 were answered at the deadline, without a peer.
    assert results.exchange.steps == 2 + 4
    assert results.exchange.answered == 6
    assert results.exchange.peers_mean == pytest.approx(4 / 6)
    known = [loss.exch for loss in results.rounds[3].losses.values() if loss.exch is not None]
    assert known == []


def test_a_required_exchange_voids_the_attempt_and_the_repetition_changes_no_bit(
    data: Path, finished: Callable[[str], Path], tmp_path: Path
) -> None:
    # One site would be a quorum; but its steps had no peer the first time round 4 was asked.
    plan = plan_of(quorum=1, exchange={"deadline_seconds": 0.2, "required": True})
    attempts = Attempts()
    results = run(
        plan,
        data=data,
        out=tmp_path,
        faults={"beta": _once(dead_in(4))},
        progress=Progress(observer=attempts),
    )
    assert attempts.failed == [(4, 1)]
    assert results.rounds[3].attempt == 2
    model = "model.safetensors"
    assert weights_of(tmp_path / model) == weights_of(finished("fdfed") / model)


def _once(fault: Callable[[Message], bool]) -> Callable[[Message], bool]:
    happened = False

    def once(message: Message) -> bool:
        nonlocal happened
        if happened or not fault(message):
            return False
        happened = True
        return True

    return once


class Attempts(Observer):
    """Remembers which attempts failed, and why."""

    def __init__(self) -> None:
        self.failed: list[tuple[int, int]] = []

    def attempt_failed(self, server_round: int, attempt: int, reason: str) -> None:
        assert "beta: node unavailable" in reason
        self.failed.append((server_round, attempt))


@pytest.mark.parametrize("lost", [1, 3])
def test_a_round_under_quorum_stops_the_run_after_its_attempts_and_the_run_can_go_on(
    data: Path, finished: Callable[[str], Path], tmp_path: Path, lost: int
) -> None:
    plan = plan_of(strategy="fedbn")
    attempts = Attempts()
    with pytest.raises(QuorumNotMet, match=rf"round {lost}, attempt 3: .* 2 are needed") as err:
        run(
            plan,
            data=data,
            out=tmp_path,
            faults={"beta": dead_in(lost)},
            progress=Progress(observer=attempts),
        )
    assert err.value.exit_code == 4
    assert attempts.failed == [(lost, 1), (lost, 2), (lost, 3)]
    state = load_state(tmp_path / "state" / "run")
    assert (0 if state is None else state.completed_rounds) == lost - 1
    assert not (tmp_path / "results.json").exists()
    run(plan, data=data, out=tmp_path)
    assert_same_run(tmp_path, finished("fedbn"))


def test_a_site_that_misses_the_test_has_no_score_and_no_model_of_its_own(
    data: Path, tmp_path: Path
) -> None:
    plan = plan_of(strategy="fedbn", rounds=2, quorum=1)
    # The messages of round 2: validation first, which is answered, then the test.
    fault = dead_in(2, kind="evaluate", answers=0)
    results: RunResults = run(plan, data=data, out=tmp_path, faults={"beta": fault})
    assert results.sites["beta"].dice is None
    assert results.sites["alpha"].dice is not None
    assert [path.stem for path in tmp_path.glob("models/*")] == ["alpha"]
    assert {row.site for row in load_per_image(tmp_path / "results.json")} == {"alpha"}


@pytest.mark.parametrize("phantoms", [False])
def test_sites_refuse_a_plan_for_other_images_than_theirs(
    data: Path, tmp_path: Path, phantoms: bool
) -> None:
    plan = plan_of(strategy="fedavg", phantoms=phantoms)
    sites = open_sites(plan, data)
    with pytest.raises(ConnectionFailed, match=r"0 site\(s\) accepted .*alpha: RefusedByPolicy"):
        simulate_sites(plan, sites, out=tmp_path)


def test_phantoms_and_images_are_never_in_one_run(data: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "data", "alpha", images=20, size=32)
    folder = tmp_path / "data" / "beta"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
        for path in (data / "beta" / part).iterdir():
            name = path.name.replace("phantom", "case")
            (folder / part / name).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="alpha hold phantoms and the other sites do not"):
        run(plan_of(), data=tmp_path / "data", out=tmp_path / "out")


def test_the_result_does_not_depend_on_who_answers_first(
    data: Path, finished: Callable[[str], Path], tmp_path: Path
) -> None:
    def slow(site: str, server_round: int, done: int, total: int) -> None:
        # Whoever is named first answers last.
        if site == SITES[0]:
            time.sleep(0.02)

    run(plan_of(), data=data, out=tmp_path, progress=Progress(on_step=slow))
    assert_same_run(tmp_path, finished("fdfed"))


def test_weights_of_every_dtype_keep_it_through_a_whole_run(
    finished: Callable[[str], Path],
) -> None:
    model = safetensors.numpy.load_file(finished("fdfed") / "model.safetensors")
    counters = {n: v for n, v in model.items() if n.endswith("num_batches_tracked")}
    results = load_results(finished("fdfed") / "results.json")
    assert counters
    for value in counters.values():
        assert value.dtype == np.int64
        assert value > 0
    assert results.model_round is not None


def test_each_site_is_told_whether_joining_helped_and_the_run_itself_is_the_same(
    data: Path, finished: Callable[[str], Path], tmp_path: Path
) -> None:
    results = run(plan_of(strategy="fedbn"), data=data, out=tmp_path, local_baseline=True)
    assert set(results.joining) == set(SITES)
    own = set(load_results(tmp_path / "results.json").joining["alpha"].scores)
    assert own == {"shared", "fine_tuned", "alone"}
    for site in SITES:
        header = read_header(tmp_path / "kept" / f"{site}.safetensors")
        assert header.site == site
        score = results.joining[site].scores["shared"].test
        assert score == pytest.approx(results.sites[site].dice), "the model that the site has"
    assert (tmp_path / "joining.csv").read_text().startswith("site,name,patient,shared")
    for name in ("model.safetensors", "models/alpha.safetensors"):
        assert weights_of(tmp_path / name) == weights_of(finished("fedbn") / name)


def test_a_local_baseline_of_a_run_that_nobody_joins_is_refused_before_anything_is_read(
    tmp_path: Path,
) -> None:
    with pytest.raises(InvalidInput, match="--with-local-baseline"):
        simulate(
            plan_of(strategy="pooled"),
            data=tmp_path / "nowhere",
            out=tmp_path,
            local_baseline=True,
        )

"""A hospital's side of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fdfed.config import RunPlan
from fdfed.errors import RefusedByPolicy, WireError
from fdfed.evaluation.aggregates import aggregate
from fdfed.exchange import CotangentFrame, ExchangeStats, PrototypeFrame
from fdfed.training.initialise import initial_network
from fdfed.training.local_round import ExchangeIncomplete
from fdfed.training.sharing import shared_names, take_tensors
from fdfed.training.site_state import SiteStore
from fdfed.wire import EvaluateInstruction, Prepare, TrainResult
from fdfed_client.site import Site
from tests.unit.fdfed_client.site_rounds import (
    RUN,
    TAPS,
    Hub,
    Images,
    bits,
    instruction_of,
    plan_of,
    site_of,
    state_bits,
)


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedbn", "local"])
def test_a_round_that_is_asked_again_gives_the_same_answer_bit_for_bit(
    tmp_path: Path, strategy: str
) -> None:
    plan = plan_of(strategy=strategy)
    site = site_of(tmp_path)
    for server_round in (1, 2, 3, 4):  # round 4 is the first of phase 2
        message = instruction_of(plan, server_round)
        first = site.train(message)
        of_first = state_bits(site)
        again = site.train(replace(message, attempt=2))
        assert bits(again) == bits(first)
        assert state_bits(site) == of_first
        assert again.loss_seg == first.loss_seg
        np.testing.assert_array_equal(again.fd, first.fd)


def test_an_agent_that_was_restarted_trains_as_if_it_had_not_been(tmp_path: Path) -> None:
    plan = plan_of(strategy="fedbn")
    one = site_of(tmp_path / "one")
    for server_round in (1, 2):
        site_of(tmp_path / "two").train(instruction_of(plan, server_round))
        one.train(instruction_of(plan, server_round))
    expected = one.train(instruction_of(plan, 3))
    restarted = site_of(tmp_path / "two")
    assert bits(restarted.train(instruction_of(plan, 3))) == bits(expected)
    assert state_bits(restarted) == state_bits(one)


def test_the_optimiser_goes_on_within_a_phase_and_starts_afresh_in_phase_2(tmp_path: Path) -> None:
    plan = plan_of(rounds=5)  # phases 1 1 1 2 2
    assert [plan.phase(n) for n in range(1, 6)] == [1, 1, 1, 2, 2]
    site = site_of(tmp_path / "all")
    differs = {}
    for server_round in range(1, 6):
        message = instruction_of(plan, server_round, alpha=np.full(TAPS, 0.01))
        newcomer = site_of(tmp_path / f"new-{server_round}").train(message)
        differs[server_round] = bits(site.train(message)) != bits(newcomer)
    # A newcomer has no optimiser state: alike exactly where the state starts afresh.
    assert differs == {1: False, 2: True, 3: True, 4: False, 5: True}


def test_phase_1_is_training_with_the_segmentation_loss_alone_bit_for_bit(tmp_path: Path) -> None:
    exchanging = site_of(tmp_path / "a", open_exchange=lambda _: Hub())
    plain = site_of(tmp_path / "b")
    for server_round in (1, 2):
        got = exchanging.train(instruction_of(plan_of(loss="fd+exch"), server_round))
        expected = plain.train(instruction_of(plan_of(strategy="fedavg", loss="seg"), server_round))
        assert bits(got) == bits(expected)
        assert got.loss_seg == expected.loss_seg
        assert got.exchange == ExchangeStats()
        assert np.isnan(got.fd).all()
        np.testing.assert_array_equal(got.alpha, np.zeros(TAPS))


def norms_of(site: Site) -> dict[str, bytes]:
    shared = shared_names(site.network, "fedbn")
    return {name: value for name, value in state_bits(site).items() if name not in shared}


def test_fedbn_keeps_its_normalisation_from_round_to_round_and_sends_none_of_it(
    tmp_path: Path,
) -> None:
    plan = plan_of(strategy="fedbn", loss="seg")
    site = site_of(tmp_path)
    seen = []
    for server_round in (1, 2):
        result = site.train(instruction_of(plan, server_round))
        assert not set(result.weights) & set(norms_of(site))
        seen.append(norms_of(site))
    assert seen[0] != seen[1]
    # The counters of batch norm go on: 2 rounds of 2 steps.
    counters = [v for n, v in seen[1].items() if n.endswith("num_batches_tracked")]
    assert counters
    assert all(np.frombuffer(v, np.int64)[0] == 4 for v in counters)


def test_evaluating_an_earlier_round_takes_the_tensors_that_stayed_at_the_site_then(
    tmp_path: Path,
) -> None:
    plan = plan_of(strategy="fedbn", loss="seg")
    site = site_of(tmp_path)
    kept = {}
    for server_round in (1, 2):
        message = instruction_of(plan, server_round)
        site.train(message)
        kept[server_round] = norms_of(site)
    for server_round, expected in kept.items():
        site.evaluate(evaluation_of(plan, server_round=server_round))
        assert norms_of(site) == expected


@pytest.mark.parametrize("best", [1, 2])
def test_phase_2_starts_from_the_local_tensors_of_the_best_round(tmp_path: Path, best: int) -> None:
    plan = plan_of(strategy="fedbn")
    trained = site_of(tmp_path / "a")
    for server_round in (1, 2, 3):
        message = instruction_of(plan, server_round, best_round=min(best, server_round - 1))
        trained.train(message)
    switched = trained.train(instruction_of(plan, 4, best_round=best))
    # A site that stopped at the best round, and was asked for phase 2 next.
    stopped = site_of(tmp_path / "b")
    for server_round in range(1, best + 1):
        stopped.train(instruction_of(plan, server_round))
    expected = stopped.train(instruction_of(plan, 4, best_round=best))
    assert bits(switched) == bits(expected)
    assert norms_of(trained) == norms_of(stopped)


def test_a_site_that_missed_the_best_round_starts_phase_2_from_the_last_one_before_it(
    tmp_path: Path,
) -> None:
    plan = plan_of(strategy="fedbn")
    absent = site_of(tmp_path / "a")
    absent.train(instruction_of(plan, 1))  # round 2, the best, without this site
    absent.train(instruction_of(plan, 3, best_round=2))
    got = absent.train(instruction_of(plan, 4, best_round=2))
    stopped = site_of(tmp_path / "b")
    stopped.train(instruction_of(plan, 1))
    expected = stopped.train(instruction_of(plan, 4, best_round=1))
    assert bits(got) == bits(expected)
    assert norms_of(absent) == norms_of(stopped)


def test_a_reply_that_the_step_did_not_accept_counts_as_dropped(tmp_path: Path) -> None:
    plan = plan_of(loss="fd+exch")
    site = site_of(tmp_path, open_exchange=lambda _: Hub(value=1e9))
    result = site.train(instruction_of(plan, 4, alpha=np.full(TAPS, 0.01)))
    stats = result.exchange
    assert (stats.steps, stats.answered, stats.dropped) == (2, 0, 2)
    assert np.isnan(result.exch).all()
    assert site.exchanged.answered == 2  # what the audit log says came in


def test_where_sites_count_equally_the_cross_site_term_counts_once_a_site(tmp_path: Path) -> None:
    def trained(folder: str, **changes: Any) -> TrainResult:
        plan = plan_of(loss="fd+exch", sites=["a", "b", "c"], **changes)
        site = site_of(tmp_path / folder, open_exchange=lambda _: Hub(value=0.5))
        total = 999 if changes else 3 * 6  # of three sites with six images each
        return site.train(instruction_of(plan, 4, alpha=np.full(TAPS, 0.01), total_examples=total))

    assert bits(trained("robust", aggregation="robust")) == bits(trained("plain"))


def test_a_round_that_failed_does_not_count_in_the_next_one(tmp_path: Path) -> None:
    hub = Hub(drops=(1,))
    plan = plan_of(loss="fd+exch", exchange={"required": True})
    site = site_of(tmp_path, open_exchange=lambda _: hub)
    with pytest.raises(ExchangeIncomplete):
        site.train(instruction_of(plan, 4))
    assert (site.exchanged.steps, site.exchanged.dropped) == (2, 1)
    hub.drops = ()
    result = site.train(instruction_of(plan, 4, attempt=2))
    assert (result.exchange.steps, result.exchange.answered) == (2, 2)


def test_in_phase_2_each_tap_proposes_alpha_by_the_dual_rule(tmp_path: Path) -> None:
    plan = plan_of()
    target = np.linspace(-1, 1, TAPS)
    target[0] = np.nan
    result = site_of(tmp_path).train(
        instruction_of(plan, 4, alpha=np.full(TAPS, 0.002), target=target)
    )
    # At 32 px the bottleneck has 4 cells, all of them foreground here: nothing to compare.
    assert np.flatnonzero(np.isnan(result.fd)).tolist() == [4]
    excess = np.where(np.isnan(target), plan.alpha.margin, result.fd - target)
    excess[4] = 0
    np.testing.assert_allclose(result.alpha, 0.002 + plan.alpha.rate * excess)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {}}, "the weights lack or add tensors"),
        ({"alpha": np.zeros(3)}, "α has 3 entries"),
    ],
)
def test_an_instruction_that_does_not_fit_the_network_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(WireError, match=message):
        site_of(tmp_path).train(instruction_of(plan_of(), **changes))


@pytest.mark.parametrize("phantoms", [True, False])
def test_a_plan_for_the_other_kind_of_images_is_refused_before_anything_is_said_of_them(
    tmp_path: Path, phantoms: bool
) -> None:
    site = site_of(tmp_path, images=Images(phantoms=phantoms))
    plan = plan_of(phantoms=not phantoms)
    with pytest.raises(RefusedByPolicy, match="phantoms never take part in a real run"):
        site.prepare(Prepare(plan=plan, run_id=RUN))
    with pytest.raises(RefusedByPolicy):
        site.train(instruction_of(plan))
    with pytest.raises(RefusedByPolicy):
        site.evaluate(evaluation_of(plan))


def test_a_plan_that_exchanges_is_refused_by_a_site_without_an_exchange(tmp_path: Path) -> None:
    with pytest.raises(RefusedByPolicy, match="has no exchange"):
        site_of(tmp_path).prepare(Prepare(plan=plan_of(loss="fd+exch"), run_id=RUN))


def test_another_plan_closes_the_stream_of_the_one_before(tmp_path: Path) -> None:
    hubs: list[Hub] = []

    def opened(_: RunPlan) -> Hub:
        hubs.append(Hub())
        return hubs[-1]

    site = site_of(tmp_path, open_exchange=opened)
    for seed in (0, 0, 1):
        site.prepare(Prepare(plan=plan_of(loss="fd+exch", seed=seed), run_id=RUN))
    assert [hub.closed for hub in hubs] == [True, False]
    site.close()
    assert hubs[1].closed


def test_a_site_without_a_plan_predicts_nothing(tmp_path: Path) -> None:
    with pytest.raises(WireError, match="before it had a plan"):
        list(site_of(tmp_path).predict("test"))


def evaluation_of(plan: RunPlan, **changes: Any) -> EvaluateInstruction:
    network = initial_network(plan)
    values: dict[str, Any] = {
        "plan": plan,
        "run_id": RUN,
        "server_round": 1,
        "part": "test",
        "weights": take_tensors(network, shared_names(network, plan.strategy)),
    }
    return EvaluateInstruction(**(values | changes))


def test_what_is_said_of_the_test_images_is_their_aggregate(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    result = site.evaluate(evaluation_of(plan_of()))
    assert result.dice == aggregate((s.dice for s in site.image_scores), min_count=1)
    assert result.iou == aggregate((s.iou for s in site.image_scores), min_count=1)
    assert [s.name for s in site.image_scores] == [f"test-{n}" for n in range(4)]


@pytest.mark.parametrize(("images", "withheld"), [(2, True), (3, False)])
def test_scores_of_fewer_images_than_the_minimum_count_are_withheld(
    tmp_path: Path, images: int, withheld: bool
) -> None:
    site = site_of(tmp_path, images=Images(test=images))
    result = site.evaluate(evaluation_of(plan_of(min_count=3)))
    assert (result.dice is None, result.iou is None) == (withheld, withheld)
    assert len(site.image_scores) == images  # at home they are known all the same


@pytest.mark.parametrize(("own", "plans", "withheld"), [(5, 1, True), (1, 5, True), (4, 1, False)])
def test_a_coordinator_cannot_ask_for_aggregates_of_fewer_images_than_the_site_allows(
    tmp_path: Path, own: int, plans: int, withheld: bool
) -> None:
    site = site_of(tmp_path, images=Images(test=4), min_count=own)
    result = site.evaluate(evaluation_of(plan_of(min_count=plans)))
    assert (result.dice is None) == withheld


def test_validation_leaves_the_scores_of_the_test_images_alone(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    site.evaluate(evaluation_of(plan_of()))
    scores = site.image_scores
    result = site.evaluate(evaluation_of(plan_of(), part="validation"))
    assert result.part == "validation"
    assert result.dice is not None
    assert result.dice.n == 3
    assert site.image_scores is scores


def test_every_result_is_shown_to_the_site_before_it_leaves(tmp_path: Path) -> None:
    shown: list[object] = []
    see: Callable[[Site, object], None] = lambda _, result: shown.append(result)  # noqa: E731
    site = site_of(tmp_path, on_result=see)
    sent = [site.train(instruction_of(plan_of())), site.evaluate(evaluation_of(plan_of()))]
    assert all(one is other for one, other in zip(shown, sent, strict=True))


def test_counts_are_all_that_preparing_says_of_the_images(tmp_path: Path) -> None:
    prepared = site_of(tmp_path).prepare(Prepare(plan=plan_of(), run_id=RUN))
    assert (prepared.site, prepared.phantoms) == ("a", False)
    counts = (prepared.num_train, prepared.num_validation, prepared.num_test, prepared.num_empty)
    assert counts == (6, 3, 4, 1)


@pytest.mark.parametrize("loss", ["con", "deeps"])
def test_the_heads_of_an_auxiliary_loss_stay_at_the_site_and_go_on_from_round_to_round(
    tmp_path: Path, loss: str
) -> None:
    plan = plan_of(loss=loss)
    one = site_of(tmp_path / "one")
    kept = []
    for server_round in (1, 2):
        message = instruction_of(plan, server_round)
        result = one.train(message)
        assert set(result.weights) == set(one.network.state_dict())
        assert not any("heads" in name for name in result.weights)
        # Asked again, and asked of an agent that was restarted, the answer is the same.
        assert bits(one.train(replace(message, attempt=2))) == bits(result)
        assert bits(site_of(tmp_path / "two").train(message)) == bits(result)
        record = SiteStore(tmp_path / "two").load(RUN, server_round)
        assert record is not None
        kept.append({name: t.numpy().tobytes() for name, t in record.part("auxiliary").items()})
    assert kept[0].keys() == kept[1].keys()
    assert kept[0]
    assert kept[0] != kept[1]


@pytest.mark.parametrize("loss", ["con", "deeps"])
def test_every_round_of_an_auxiliary_loss_changes_the_weights_and_measures_no_discrepancy(
    tmp_path: Path, loss: str
) -> None:
    plain = site_of(tmp_path / "plain")
    site = site_of(tmp_path / "site")
    for server_round in (1, 4):
        got = site.train(instruction_of(plan_of(loss=loss), server_round))
        of_seg = plain.train(instruction_of(plan_of(loss="seg"), server_round))
        assert bits(got) != bits(of_seg)
        assert np.isnan(got.fd).all()
        np.testing.assert_array_equal(got.alpha, np.zeros(TAPS))


def test_a_site_that_may_choose_says_what_it_chose_and_trains_and_scores_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fdfed.training import fastest

    amp = fastest.Setting("amp", channels_last=False)
    monkeypatch.setattr(fastest, "_choices", {})
    # A command that ran in this process before may have taken the log to its own console.
    monkeypatch.setattr(logging.getLogger("fdfed_client"), "propagate", True)
    monkeypatch.setattr(fastest, "_measure", lambda *_: {fastest.USUAL: 2.0, amp: 1.0})
    chosen, fixed = site_of(tmp_path / "a"), site_of(tmp_path / "b")
    with caplog.at_level("INFO", logger="fdfed_client.plan_opening"):
        result = chosen.train(instruction_of(plan_of(precision="auto")))
    assert "a trains in amp, channels first (a step takes: " in caplog.text
    assert chosen.plan.precision == "auto"
    # The layout changes the order of sums, the precision much more than that.
    expected = fixed.train(instruction_of(plan_of(precision="amp")))
    assert result.loss_seg == pytest.approx(expected.loss_seg, rel=1e-2)
    assert bits(result) != bits(site_of(tmp_path / "c").train(instruction_of(plan_of())))
    with torch.no_grad():
        assert len(chosen.score("test")) == 4


@pytest.mark.parametrize(("own", "sends"), [(1, True), (2, True), (3, False)])
def test_a_site_may_ask_for_more_patients_behind_a_prototype_than_the_plan(
    tmp_path: Path, own: int, sends: bool
) -> None:
    frames: list[PrototypeFrame] = []

    class Recording(Hub):
        def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
            frames.append(frame)
            return super().swap(frame)

    site = site_of(tmp_path, min_patients=own, open_exchange=lambda _: Recording())
    plan = plan_of(loss="fd+exch", strategy="fdfed", batch_size=2)
    site.train(instruction_of(plan, 4, alpha=np.full(TAPS, 0.01)))
    assert len(frames) == 2
    # Two images of two patients: with three asked for, zeros go to the hub.
    assert [bool(frame.valid.any()) for frame in frames] == [sends, sends]

"""Masked federations in one process, with every message that a site sends recorded: no update ever
left in a form that the coordinator can read, and what it computed is their exact sum."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp

import fdfed_client.app
import fdfed_client.site
from fdfed.config import RunPlan
from fdfed.data import write_phantoms
from fdfed.errors import QuorumNotMet, RefusedByPolicy
from fdfed.evaluation.results import RoundRecord, RunResults
from fdfed.privacy import ContributionLayout, Measures, PairwiseMasks
from fdfed.simulation import Progress, simulate
from fdfed.training.local_round import tap_losses
from fdfed.wire import MaskedResult, Ready, TrainResult
from fdfed_server.observer import Observer
from fdfed_server.run_state import RunState, load_state
from tests.plans import PHASED

SITES = ("alpha", "beta", "gamma")


def plan_of(**changes: object) -> RunPlan:
    values: dict[str, object] = {
        "sites": list(SITES),
        "width": 4,
        "size": 32,
        "rounds": 2,
        "steps_per_round": 1,
        "batch_size": 4,
        "min_count": 1,
        "aggregation": "masked",
    }
    return RunPlan.model_validate(PHASED | values | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number, site in enumerate(SITES):
        write_phantoms(folder, site, images=10 + 2 * number, size=32)
    return folder


def run(plan: RunPlan, *, data: Path, out: Path, **options: Any) -> RunResults:
    with mock.patch("fdfed.simulation.run.write_report"):
        return simulate(plan, data=data, out=out, **options)


Attempt = tuple[int, int]


@dataclass
class Transcript:
    """What each site sent, and what it had computed before that, by (round, attempt)."""

    sent: list[tuple[str, RecordDict]] = field(default_factory=list)
    truth: dict[Attempt, dict[str, TrainResult]] = field(default_factory=dict)
    plan: RunPlan = field(default_factory=plan_of)

    def masked(self, attempt: Attempt) -> dict[str, np.ndarray]:
        """The numbers that the sites sent for an attempt."""
        found = {}
        for site, record in self.sent:
            if record["fdfed"]["kind"] == "masked":  # type: ignore[index]
                result = MaskedResult.from_record(record)
                if (result.server_round, result.attempt) == attempt:
                    found[site] = result.values
        return found

    def contributions(self, attempt: Attempt) -> dict[str, np.ndarray]:
        """What is under the masks."""
        return {
            site: layout_of(result).contribution(
                result.weights, measures_of(result, self.plan), num_examples=result.num_examples
            )
            for site, result in self.truth[attempt].items()
        }


def layout_of(result: TrainResult) -> ContributionLayout:
    return ContributionLayout.of(result.weights, taps=len(result.alpha))


def measures_of(result: TrainResult, plan: RunPlan) -> Measures:
    return Measures(
        loss_seg=result.loss_seg,
        alpha=result.alpha,
        fd=result.fd,
        exch=result.exch,
        total=tap_losses(plan, result.fd, result.exch),
    )


@pytest.fixture
def transcript() -> Iterator[Transcript]:
    """Records at the border of the sites: every record that one returns, and every result before it
    is masked."""
    written = Transcript()
    build, masked = fdfed_client.app.build_client_app, fdfed_client.site.masked_result

    def building(site: Any, **options: Any) -> Callable[..., Message]:
        app: ClientApp = build(site, **options)

        def answer(message: Message, context: Any) -> Message:
            reply = app(message=message, context=context)
            written.sent.append((site.name, reply.content))
            return reply

        return answer

    def masking(result: TrainResult, masks: PairwiseMasks, *, plan: RunPlan) -> MaskedResult:
        attempt = (result.server_round, result.attempt)
        # A site is a thread of the grid, which carries its name.
        site = threading.current_thread().name.removeprefix("site-").split("_")[0]
        written.truth.setdefault(attempt, {})[site] = result
        return masked(result, masks, plan=plan)

    with (
        mock.patch("fdfed.simulation.run.build_client_app", building),
        mock.patch("fdfed_client.site.masked_result", masking),
    ):
        yield written


def raw_bytes(record: RecordDict) -> bytes:
    """Everything in a record, one after the other."""
    parts = []
    for value in record.values():
        if isinstance(value, ArrayRecord):
            parts += [array.data for array in value.values()]
        else:
            parts += [repr(entry).encode() for entry in value.values()]
    return b"\n".join(parts)


def bits_are_fair(values: np.ndarray) -> bool:
    """Whether the share of ones is within 5 standard deviations of a half (chance 6e-7)."""
    share = np.unpackbits(np.ascontiguousarray(values).view(np.uint8)).mean()
    return bool(abs(share - 0.5) < 2.5 / math.sqrt(64 * values.size))


def test_no_message_of_a_whole_run_holds_an_update_and_each_sum_is_exact(
    data: Path, transcript: Transcript, tmp_path: Path
) -> None:
    transcript.plan = plan_of()
    results = run(transcript.plan, data=data, out=tmp_path)
    assert results.privacy.secure_aggregation is True
    attempts = [(1, 1), (2, 1)]
    assert sorted(transcript.truth) == attempts
    for attempt in attempts:
        masked, clear = transcript.masked(attempt), transcript.contributions(attempt)
        assert set(masked) == set(clear) == set(SITES)
        for site in SITES:
            assert bits_are_fair(masked[site])
            mask = masked[site] - clear[site]
            assert bits_are_fair(mask)
            # Of n uniform numbers of 64 bits one is zero with chance n / 2⁶⁴.
            assert mask.all()
        # Two of three tell nothing either: the third site's masks lie over their sum.
        pair = masked["alpha"] + masked["beta"] - clear["alpha"] - clear["beta"]
        assert bits_are_fair(pair)
        total = sum(masked.values(), np.zeros_like(masked["alpha"]))
        assert total.tobytes() == sum(clear.values(), np.zeros_like(total)).tobytes()
    assert_nothing_in_the_clear(transcript)
    assert_state_is_the_mean(load_state(tmp_path / "state" / "run"), transcript, (2, 1))


def assert_nothing_in_the_clear(transcript: Transcript) -> None:
    kinds = {str(record["fdfed"]["kind"]) for _, record in transcript.sent}  # type: ignore[index]
    assert kinds == {"prepared", "is-ready", "masked", "evaluated"}
    sent = b"\n".join(raw_bytes(record) for _, record in transcript.sent)
    for attempt, truth in transcript.truth.items():
        for site, result in truth.items():
            secret = [w for w in result.weights.values() if w.size >= 8]
            assert secret
            fixed = transcript.contributions(attempt)[site]
            pieces = [fixed[start : start + 8] for start in range(0, len(fixed), 997)]
            # Round 1 is phase 1: no losses by tap yet, and α is the zero that was sent.
            taps = [result.fd[:2], result.exch[:2]] if attempt[0] == 2 else []
            for array in (*secret, *pieces, *taps):
                assert np.isfinite(array).all()
                assert not array.any() or np.ascontiguousarray(array).tobytes() not in sent
            assert repr(result.loss_seg).encode() not in sent
    for _, record in transcript.sent:
        if record["fdfed"]["kind"] == "masked":  # type: ignore[index]
            assert set(record) == {"fdfed", "masked"}
            assert "num_examples" not in record["fdfed"]


def assert_state_is_the_mean(
    state: RunState | None, transcript: Transcript, attempt: Attempt
) -> None:
    assert state is not None
    contributions = transcript.contributions(attempt)
    total = sum(contributions.values(), np.zeros_like(contributions["alpha"]))
    mean = layout_of(transcript.truth[attempt]["alpha"]).mean(total)
    assert mean is not None
    assert mean.examples == sum(r.num_examples for r in transcript.truth[attempt].values())
    for name, value in state.model.weights.items():
        assert value.tobytes() == mean.weights[name].tobytes()


def test_after_a_drop_the_sites_train_anew_under_fresh_keys(
    data: Path, transcript: Transcript, tmp_path: Path
) -> None:
    """Else the sums of two attempts, with and without a site, would differ by its update."""
    failed: list[str] = []

    def dies_once(message: Message) -> bool:
        if message.metadata.message_type != "train" or failed:
            return False
        failed.append("beta")
        return True

    transcript.plan = plan_of(rounds=1, strategy="fedavg")
    results = run(transcript.plan, data=data, out=tmp_path, faults={"beta": dies_once})
    assert results.rounds[0].attempt == 2
    assert set(transcript.masked((1, 1))) == {"alpha", "gamma"}
    assert set(transcript.masked((1, 2))) == set(SITES)
    # What the coordinator has of the void attempt decodes to nothing.
    void = transcript.masked((1, 1))
    layout = layout_of(transcript.truth[1, 2]["alpha"])
    assert layout.mean(void["alpha"] + void["gamma"]) is None
    for site in ("alpha", "gamma"):
        first, second = (transcript.truth[1, number][site] for number in (1, 2))
        moved = [n for n, w in first.weights.items() if (w != second.weights[n]).any()]
        assert len(moved) > len(first.weights) / 2
        assert not (void[site] == transcript.masked((1, 2))[site]).any()
    keys = [
        Ready.from_record(record).announcement
        for _, record in transcript.sent
        if record["fdfed"]["kind"] == "is-ready"  # type: ignore[index]
    ]
    assert len(set(keys)) == 6


class InterruptedAsRoundBegins(Observer):
    def __init__(self, server_round: int) -> None:
        self._server_round = server_round

    def round_started(self, server_round: int, phase: int, attempt: int) -> None:
        if server_round == self._server_round:
            raise KeyboardInterrupt


def test_a_run_that_goes_on_asks_under_a_number_that_was_not_used(
    data: Path, tmp_path: Path
) -> None:
    plan = plan_of(strategy="fedavg")
    with pytest.raises(KeyboardInterrupt):
        run(plan, data=data, out=tmp_path, progress=Progress(observer=InterruptedAsRoundBegins(2)))
    results = run(plan, data=data, out=tmp_path)
    assert [record.attempt for record in results.rounds] == [1, 2]


def test_the_first_round_is_the_plain_one_to_the_rounding(data: Path, tmp_path: Path) -> None:
    states = {}
    for aggregation in ("plain", "masked"):
        plan = plan_of(rounds=1, strategy="fedavg", aggregation=aggregation)
        run(plan, data=data, out=tmp_path / aggregation)
        state = load_state(tmp_path / aggregation / "state" / "run")
        assert state is not None
        states[aggregation] = state
    plain, masked = (states[name].model.weights for name in ("plain", "masked"))
    for name, value in plain.items():
        # Half a unit of the fixed point, and half a spacing of fp32 on either side.
        bound = 2.0**-26 + np.abs(np.spacing(value)) if value.dtype.kind == "f" else 0
        assert (np.abs(masked[name].astype(np.float64) - value) <= bound).all(), name
    first, second = (states[name].history[0] for name in ("plain", "masked"))
    assert second.loss_seg == pytest.approx(first.loss_seg, abs=2.0**-25)
    assert_shows_no_single_site(second)


def assert_shows_no_single_site(record: RoundRecord) -> None:
    assert record.drift is None
    for entry in record.sites.values():
        assert (entry.loss_seg, entry.loss_fd, entry.drift) == (None, None, None)
        assert entry.val_dice is not None


def test_a_weight_beyond_the_stated_bound_voids_the_round_and_is_never_clipped(
    data: Path, tmp_path: Path
) -> None:
    plan = plan_of(rounds=1, strategy="fedavg", optimizer="sgd", learning_rate=1e9, attempts=1)
    with pytest.raises(QuorumNotMet, match="alpha: InvalidInput"):
        run(plan, data=data, out=tmp_path)


def test_without_keys_a_site_refuses_the_plan(data: Path, tmp_path: Path) -> None:
    from fdfed.simulation import open_sites
    from fdfed.training.site_state import SiteStore
    from fdfed.wire import Prepare

    plan = plan_of(phantoms=True)
    images = open_sites(plan, data)["alpha"]
    site = fdfed_client.site.Site("alpha", lambda _: images, SiteStore(tmp_path))
    with pytest.raises(RefusedByPolicy, match="alpha has no keys to mask its updates with"):
        site.prepare(Prepare(plan=plan, run_id="ab" * 8))

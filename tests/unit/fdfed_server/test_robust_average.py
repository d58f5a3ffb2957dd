"""The trimmed mean and the median of updates that lie on disk."""

from __future__ import annotations

import stat
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fdfed.config import DefencePlan, RunPlan, parse
from fdfed.errors import InvalidInput
from fdfed_server import robust_average
from fdfed_server.robust_average import RobustAverage, open_average, robust_centre
from fdfed_server.update_spool import UpdateSpool

REFERENCE = {"w": np.zeros((1, 2), dtype=np.float32), "count": np.array(4, dtype=np.int64)}
MEDIAN, THIRD = DefencePlan(robust="median"), DefencePlan()
VALUES = st.floats(-100, 100, width=32)


def update(first: float, second: float, count: int = 8) -> dict[str, np.ndarray]:
    return {
        "w": np.array([[first, second]], dtype=np.float32),
        "count": np.array(count, dtype=np.int64),
    }


def centre(
    folder: Path, updates: Sequence[dict[str, np.ndarray]], defence: DefencePlan
) -> tuple[dict[str, np.ndarray], float]:
    with UpdateSpool(folder / "spool", REFERENCE) as spool:
        average = RobustAverage(
            REFERENCE, measured=frozenset({"w"}), spool=spool, cut_of=defence.cut_of
        )
        for one in updates:
            average.fold(one, num_examples=1)
        result = average.result()
        return result, average.drift(result)


def first_weights(folder: Path, values: Sequence[float], defence: DefencePlan) -> float:
    result, _ = centre(folder, [update(value, 0) for value in values], defence)
    return float(result["w"][0, 0])


def plan_of(sites: int, **changes: Any) -> RunPlan:
    values = {"sites": [f"s{n}" for n in range(sites)], "aggregation": "robust", **changes}
    return parse(RunPlan, values, source="the test")


# --- values


def test_the_trimmed_mean_is_that_worked_by_hand(tmp_path: Path) -> None:
    updates = [update(1, 0, 8), update(2, 0, 8), update(6, -9, 9), update(1e6, 1, 2**40)]
    result, _ = centre(tmp_path, updates, THIRD)
    # ⌊4 / 3⌋ = 1 at either end: (2 + 6) / 2, (0 + 0) / 2, and round((8 + 9) / 2) to the even 8.
    np.testing.assert_array_equal(result["w"], np.array([[4, 0]], dtype=np.float32))
    assert result["count"] == 8
    assert (result["w"].dtype, result["count"].dtype) == (np.float32, np.int64)
    assert result["count"].shape == ()


def test_the_median_is_that_worked_by_hand(tmp_path: Path) -> None:
    assert first_weights(tmp_path, [5, 1, 1e9], MEDIAN) == 5
    assert first_weights(tmp_path, [5, 1, 2, -1e9], MEDIAN) == 1.5


def test_examples_weigh_nothing(tmp_path: Path) -> None:
    with UpdateSpool(tmp_path / "spool", REFERENCE) as spool:
        average = RobustAverage(
            REFERENCE, measured=frozenset({"w"}), spool=spool, cut_of=THIRD.cut_of
        )
        for value, examples in ((1, 10**6), (2, 1), (3, 1)):
            average.fold(update(value, 0), num_examples=examples)
        assert average.result()["w"][0, 0] == 2


def test_the_drift_is_the_spread_around_the_centre(tmp_path: Path) -> None:
    _, drift = centre(tmp_path, [update(0, 0), update(0, 0), update(3, 4)], MEDIAN)
    assert drift == pytest.approx(np.sqrt(25 / 3))


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.lists(VALUES, min_size=3, max_size=9), share=st.sampled_from([0.34, 0.4, 0.49]))
def test_the_trimmed_mean_agrees_with_scipy(
    tmp_path: Path, values: list[float], share: float
) -> None:
    ours = first_weights(tmp_path, values, DefencePlan(trim=share))
    theirs = scipy.stats.trim_mean(np.array(values, dtype=np.float64), share)
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-5)


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    values=st.lists(st.tuples(VALUES, VALUES), min_size=3, max_size=7),
    outlier=st.floats(width=32, allow_nan=False, allow_infinity=False),
    defence=st.sampled_from([THIRD, MEDIAN]),
    data=st.data(),
)
def test_no_order_of_sites_changes_a_bit_and_no_single_outlier_leaves_the_honest_range(
    tmp_path: Path,
    values: list[tuple[float, float]],
    outlier: float,
    defence: DefencePlan,
    data: st.DataObject,
) -> None:
    updates = [update(*pair) for pair in values[1:]] + [update(outlier, -outlier)]
    if len(updates) < 3:
        updates.append(update(*values[0]))
    honest = np.stack([u["w"] for u in updates if u["w"][0, 0] != np.float32(outlier)] or [[[0]]])
    result, _ = centre(tmp_path, updates, defence)
    again, _ = centre(tmp_path, data.draw(st.permutations(updates)), defence)
    assert result["w"].tobytes() == again["w"].tobytes()
    if len(honest) == len(updates) - 1:
        assert (result["w"] >= honest.min(axis=0)).all()
        assert (result["w"] <= honest.max(axis=0)).all()


def test_blocks_of_any_size_give_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    reference = {"w": np.zeros((7, 11), dtype=np.float32), "s": np.zeros(3, dtype=np.float64)}
    updates = [
        {n: rng.normal(size=v.shape).astype(v.dtype) for n, v in reference.items()}
        for _ in range(5)
    ]
    results = []
    for size in (16 << 20, 8 * 5 * 4):  # all at once, and four elements at a time
        monkeypatch.setattr(robust_average, "_BLOCK_BYTES", size)
        with UpdateSpool(tmp_path / "spool", reference) as spool:
            average = RobustAverage(
                reference, measured=frozenset(reference), spool=spool, cut_of=THIRD.cut_of
            )
            for one in updates:
                average.fold(one, num_examples=1)
            results.append({n: v.tobytes() for n, v in average.result().items()})
    assert results[0] == results[1]


def test_memory_beyond_the_result_is_a_few_blocks_however_many_sites_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = 1 << 18
    monkeypatch.setattr(robust_average, "_BLOCK_BYTES", block)
    reference = {"w": np.zeros(1 << 19, dtype=np.float32)}  # 2 MiB, and 12 sites have 24
    with UpdateSpool(tmp_path / "spool", reference) as spool:
        average = RobustAverage(
            reference, measured=frozenset(reference), spool=spool, cut_of=MEDIAN.cut_of
        )
        tracemalloc.start()
        try:
            for number in range(12):
                average.fold({"w": reference["w"] + np.float32(number)}, num_examples=1)
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            result = average.result()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (result["w"] == 5.5).all()
    assert peak - before < reference["w"].nbytes + 3 * block


def test_a_vector_of_each_site_leaves_out_what_was_not_measured() -> None:
    nan = np.nan
    rows = np.array([[1, nan, nan, 7], [2, 4, nan, nan], [900, 6, nan, nan], [3, -900, nan, nan]])
    # 1 2 3 900 without the ends; 4 of -900 4 6; nothing; the only value.
    np.testing.assert_array_equal(robust_centre(rows, THIRD.cut_of), [2.5, 4, nan, 7])


# --- the files


def test_updates_lie_in_files_of_the_owner_alone_and_are_gone_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "spool"
    with UpdateSpool(folder, REFERENCE) as spool:
        spool.add(update(1, 2))
        (file,) = folder.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        np.testing.assert_array_equal(spool.block("w", 1, 2), [[2]])
        np.testing.assert_array_equal(spool.block("count", 0, 1), [[8]])
    assert not folder.exists()


def test_an_error_in_the_round_removes_the_files_too(tmp_path: Path) -> None:
    plan, folder = plan_of(3), tmp_path / "spool"

    def interrupted() -> None:
        with open_average(plan, REFERENCE, measured=frozenset(), spool=folder) as average:
            average.fold(update(1, 2), num_examples=1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not folder.exists()


def test_what_a_killed_coordinator_left_is_removed_first(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / "000000.update").write_bytes(b"old")
    with UpdateSpool(folder, REFERENCE) as spool:
        assert not list(folder.iterdir())
        assert len(spool) == 0


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with UpdateSpool(tmp_path / "spool", REFERENCE) as spool:
        monkeypatch.setattr("fdfed_server.update_spool.os.open", full)
        with pytest.raises(InvalidInput, match=r"No space left.*make room.*last complete round"):
            spool.add(update(1, 2))


# --- the plan


@pytest.mark.parametrize(
    ("sites", "changes", "said"),
    [
        (2, {}, "needs 3 sites: one of 2 moves their middle"),
        (4, {"defence": {"trim": 0.2}}, r"defence.trim = 0.2 of 4 sites leaves none out"),
        (4, {"defence": {"trim": 0.25}}, r"quorum = 3: defence.trim = 0.25 of 3 sites"),
        (4, {"quorum": 2}, "quorum = 2: aggregation = robust needs 3 sites"),
        (3, {"defence": {"trim": 0.5}}, "defence.trim"),
        (3, {"strategy": "local", "loss": "fd"}, "strategy = local sends no weights"),
    ],
)
def test_a_plan_that_would_protect_nobody_is_refused(
    sites: int, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        plan_of(sites, **changes)


def test_a_plan_with_enough_sites_is_taken_and_survives_its_canonical_text() -> None:
    for plan in (
        plan_of(3),
        plan_of(4, defence={"robust": "median"}),
        plan_of(4, quorum=4, defence={"trim": 0.25}),
        plan_of(0),  # named by the roster later
    ):
        assert RunPlan.from_json(plan.to_json()) == plan


def test_a_share_that_floating_point_puts_below_a_whole_number_counts_as_it() -> None:
    assert 0.29 * 100 < 29
    assert DefencePlan(trim=0.29).cut_of(100) == 29
    assert DefencePlan().cut_of(3) == 1

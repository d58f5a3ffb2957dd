"""The study of one hostile site in four: every hostility does what it says, and a trial is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fdfed.config import RunPlan
from fdfed.data import open_planned, write_planned_phantoms
from fdfed.data.site import SiteData
from fdfed.exchange import CotangentFrame, ExchangeStats, PrototypeFrame, StepKey
from fdfed.studies.hostile import load_hostile_results, run_hostile_study, write_hostile_study
from fdfed.studies.hostile.behaviours import HOSTILITIES
from fdfed.studies.hostile.pages import hostile_table
from fdfed.studies.hostile.study import SOURCES, HostileResult

TINY = {"width": 4, "size": 32, "rounds": 2, "steps_per_round": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    plan = RunPlan.model_validate({"sites": list(SOURCES), "size": 32})
    for site in SOURCES:
        write_planned_phantoms(plan, site, folder)
    return folder


@pytest.mark.bad_input
def test_each_kind_of_hostility_is_met_as_the_defence_says(data: Path, tmp_path: Path) -> None:
    chosen = [("honest", "bound"), ("nan", "none"), ("huge", "median")]
    trials = iter([(hostility, defence, 0) for hostility, defence in chosen])
    told: list[str] = []
    assert run_hostile_study(
        data, tmp_path, chosen=trials, changes=TINY, on_trial=lambda name, _: told.append(name)
    )
    found = {r.hostility: r for r in load_hostile_results(tmp_path)}
    assert set(found) == {name for name, _ in chosen}
    assert found["honest"].refused == found["honest"].bounded == 0
    assert found["nan"].refused == found["huge"].refused == TINY["rounds"]
    for result in found.values():
        assert result.failure == ""
        assert result.mean is not None
        assert "monuseg-2" not in result.dice
    write_hostile_study(tmp_path, list(found.values()))
    assert (tmp_path / "hostile.csv").read_text().count("\n") == 1 + len(chosen)
    assert "2 refused" in hostile_table(list(found.values()))
    # What is done is not done again.
    again = iter([("nan", "none", 0)])
    assert run_hostile_study(data, tmp_path, chosen=again, changes=TINY)
    assert len(told) == len(chosen)


def opened(data: Path) -> SiteData:
    plan = RunPlan.model_validate({"sites": list(SOURCES), "size": 32, "batch_size": 4})
    return open_planned(plan, SOURCES[0], data)


def test_masks_are_turned_inside_out_in_training_and_nowhere_else(data: Path) -> None:
    honest = opened(data)
    hostile = HOSTILITIES["labels"].images(honest)
    (image, mask), (same, flipped) = honest.training_batch(0), hostile.training_batch(0)
    torch.testing.assert_close(image, same)
    torch.testing.assert_close(flipped, 1 - mask)
    for ours, theirs in zip(
        honest.evaluation_batches("test"), hostile.evaluation_batches("test"), strict=True
    ):
        torch.testing.assert_close(ours[1], theirs[1])


class Recorder:
    def __init__(self) -> None:
        self.sent: list[np.ndarray] = []

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        self.sent.append(frame.vector)
        return None

    def take_stats(self) -> ExchangeStats:
        return ExchangeStats()

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("negated", [-1, -2, -3, -4]),
        ("exchanged", [3, 4, 1, 2]),
        ("far", [1000, 2000, 3000, 4000]),
    ],
)
def test_prototypes_are_what_the_hostility_says(name: str, expected: list[float]) -> None:
    recorder = Recorder()
    vector = np.array([1, 2, 3, 4], np.float32)
    frame = PrototypeFrame(StepKey("0" * 16, 1, 1, 0), vector, np.zeros(1, np.bool_))
    HOSTILITIES[name].exchange(recorder).swap(frame)
    assert recorder.sent[0].tolist() == expected


def test_a_table_says_where_no_model_came_out() -> None:
    result = HostileResult(
        hostility="nan", defence="none", seed=0, dice={"a": None}, refused=0, bounded=0,
        failure="quorum", seconds=1.0,
    )  # fmt: skip
    assert "| no model |" in hostile_table([result])

"""Algorithm 1's reference: its terms worked by hand, its phases, and a run that was cut."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.data import SiteData, write_phantoms
from fdfed.networks.base import SegmentationNetwork, Tap, TapSink
from fdfed.simulation import open_sites
from fdfed.studies import algorithm_1
from fdfed.studies.algorithm_1 import algorithm_1_terms, train_algorithm_1
from tests.plans import PHASED


class Levels(SegmentationNetwork):
    """Its one tap is the image itself."""

    paper_width = 1

    def __init__(self) -> None:
        super().__init__(
            in_channels=1, norm="batch", taps={"Bot": Tap(1, 1)}, size_multiple=1, size=None
        )

    def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
        taps["Bot"] = image
        return image


def test_pairs_are_an_image_with_itself_and_with_the_next() -> None:
    # Foreground in the left column, background in the right: F = (1, 2, 4), B = (0, 0, 1).
    # Own pairs |F_i - B_i|: 1, 2, 3. Next |F_i - B_{i+1}|: 1 - 0, 2 - 1, 4 - 0 = 1, 1, 4.
    # The fourth image has no background and is left out.
    left, right = torch.tensor([1.0, 2.0, 4.0, 9.0]), torch.tensor([0.0, 0.0, 1.0, 9.0])
    image = torch.stack((left, right), -1).reshape(4, 1, 1, 2)
    mask = torch.tensor([[1.0, 0.0]] * 3 + [[1.0, 1.0]]).reshape(4, 1, 1, 2)
    plan = RunPlan.model_validate({"method": {"eps": 1e-12}})
    _, terms = algorithm_1_terms(Levels(), image, mask, plan=plan)
    expected = -(math.log(2) + math.log(3)) / 3 - math.log(4) / 3
    assert terms.tolist() == [pytest.approx(expected, abs=1e-5)]


def test_a_tap_with_one_usable_image_has_no_term() -> None:
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).reshape(2, 1, 1, 2)
    _, terms = algorithm_1_terms(Levels(), torch.rand(2, 1, 1, 2), mask, plan=RunPlan())
    assert terms.isnan().all()


def plan_of(**changes: Any) -> RunPlan:
    values: dict[str, Any] = {
        "sites": ("tnbc", "monuseg"),
        "width": 2,
        "crop": 16,
        "batch_size": 2,
        "rounds": 5,
        "steps_per_round": 1,
        "strategy": "pooled",
        "loss": "fd",
        "split": {"held_out": "test", "fold": 0, "folds": 2},
        "phantoms": True,
    }
    return RunPlan.model_validate(PHASED | values | changes)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteData]:
    folder = tmp_path_factory.mktemp("data")
    for site in ("tnbc", "monuseg"):
        write_phantoms(folder, site, images=16, size=32)
    return open_sites(plan_of(), folder)


def scores(history: Any) -> list[Any]:
    return [(record.phase, record.mean_val_dice, dict(record.alpha)) for record in history]


def test_phase_2_weighs_the_terms_and_phase_1_does_not(
    sites: dict[str, SiteData], tmp_path: Path
) -> None:
    history = train_algorithm_1(plan_of(), sites, tmp_path)
    assert [record.phase for record in history] == [1, 1, 1, 2, 2]
    for record in history[:4]:
        assert set(record.alpha.values()) == {0.0}
    # η times the margin, after the first round of phase 2: 0.004 · 0.5.
    assert history[4].alpha["Enc1"] == pytest.approx(0.002)
    assert all(set(record.sites) == {"tnbc", "monuseg"} for record in history)


def test_a_phase_2_that_goes_on_is_training_without_the_terms_until_they_have_a_weight(
    sites: dict[str, SiteData], tmp_path: Path
) -> None:
    goes_on = train_algorithm_1(plan_of(phase_2_start="last"), sites, tmp_path / "on")
    without = train_algorithm_1(plan_of(loss="seg"), sites, tmp_path / "without")
    dice = [[record.mean_val_dice for record in run] for run in (goes_on, without)]
    assert dice[0][:4] == dice[1][:4]
    assert set(goes_on[3].alpha.values()) == {0.0}
    assert dice[0][4] != dice[1][4]


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_run_that_was_cut_ends_as_one_that_was_not(
    cut: int, sites: dict[str, SiteData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_algorithm_1(plan_of(), sites, tmp_path / "whole")
    keep, rounds = algorithm_1._Run._keep, []

    def cutting(run: Any, server_round: int) -> None:
        keep(run, server_round)
        rounds.append(server_round)
        if server_round == cut:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(algorithm_1._Run, "_keep", cutting)
        with pytest.raises(KeyboardInterrupt):
            train_algorithm_1(plan_of(), sites, tmp_path / "cut")
    assert scores(train_algorithm_1(plan_of(), sites, tmp_path / "cut")) == scores(whole)

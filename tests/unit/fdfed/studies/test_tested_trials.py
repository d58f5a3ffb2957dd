"""Trials that may read test images: whose they are, what they score, and who may not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fdfed.config import MethodPlan, RunPlan
from fdfed.data import held_out_patients, write_phantoms
from fdfed.errors import DataError, InvalidInput
from fdfed.evaluation.results import RoundRecord
from fdfed.losses import feature_discrepancy_loss
from fdfed.networks import create_network
from fdfed.prototypes import masked_prototypes
from fdfed.simulation import Progress, open_sites
from fdfed.studies import Trial, TrialResult, folder_of, load_results, run_trial
from fdfed.studies.scored_images import diverged_test_images, tap_discrepancies
from fdfed.studies.trials import final_network
from fdfed_server.observer import Observer
from tests.plans import PHASED

SITES = ("tnbc", "monuseg")
SPLIT = {"set_aside": "confirmatory", "held_out": "rehearsal"}


def trial_of(method: str = "fdfed", *, plan: dict[str, Any] | None = None, **own: Any) -> Trial:
    values: dict[str, Any] = {
        "sites": SITES,
        "width": 2,
        "crop": 16,
        "batch_size": 2,
        "rounds": 5,
        "steps_per_round": 2,
        "strategy": "fdfed",
        "alpha": {"mode": "fixed", "value": 0.1},
        "split": SPLIT,
        "min_count": 1,
        "phantoms": True,
    }
    own = {"opens_test": True} | own
    return Trial(
        "histology", method, "base", RunPlan.model_validate(PHASED | values | (plan or {})), **own
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for site in SITES:
        write_phantoms(folder, site, images=18, size=32)
    return folder


class CutAfter(Observer):
    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def round_finished(self, record: RoundRecord) -> None:
        if record.round == self.rounds:
            raise KeyboardInterrupt


class Counter(Observer):
    def __init__(self) -> None:
        self.rounds: list[int] = []

    def round_finished(self, record: RoundRecord) -> None:
        self.rounds.append(record.round)


def run(trial: Trial, data: Path, out: Path, **how: Any) -> TrialResult:
    run_trial(folder_of(out, trial), trial, data, **how)
    return load_results(out)[trial.name]


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrialResult]:
    out = tmp_path_factory.mktemp("study")
    return out, run(trial_of(), data, out)


def test_the_test_images_are_those_of_the_draw_and_none_of_those_set_aside(
    finished: tuple[Path, TrialResult], data: Path
) -> None:
    _, result = finished
    everything = open_sites(trial_of(plan={"split": {}}).plan, data)
    for site in SITES:
        patients = {case.patient for case in everything[site].all_cases}
        aside = set(held_out_patients(patients, site=site, draw="confirmatory"))
        tested = {image.patient for image in result.images if image.site == site}
        expected = held_out_patients(patients - aside, site=site, draw="rehearsal")
        assert tested == set(expected)


def test_the_scores_are_those_of_the_runs_own_results(
    finished: tuple[Path, TrialResult],
) -> None:
    out, result = finished
    document = json.loads((folder_of(out, trial_of()) / "run" / "results.json").read_text())
    rows = {(row["site"], row["name"]): row for row in document["per_image"]}
    assert len(rows) == len(result.images) > 0
    for image in result.images:
        row = rows[image.site, image.image]
        assert image.dice == pytest.approx(row["dice"], abs=1e-6)
        assert image.iou == pytest.approx(row["iou"], abs=1e-6)
    assert result.bytes == document["bytes"]
    assert result.best_round == document["model_round"]


def test_the_discrepancy_of_an_image_is_the_equation_on_the_padded_image() -> None:
    torch.manual_seed(0)
    network = create_network("unet", in_channels=1, width=2).eval()
    image = torch.rand(2, 1, 24, 20)
    mask = torch.zeros(2, 1, 24, 20)
    mask[0, :, 4:12, 4:12] = 1  # the second image has no foreground
    first, second = tap_discrepancies(network, image, mask, method=MethodPlan())
    assert second == {}
    assert tuple(first) == network.tap_names
    # 24 x 20 is padded to 32 x 32 by the border's values.
    pad = (0, 12, 0, 8)
    _, taps = network.forward_with_taps(torch.nn.functional.pad(image, pad, mode="replicate"))
    parts = masked_prototypes(taps["Bot"], torch.nn.functional.pad(mask, pad, mode="replicate"))
    assert first["Bot"] == pytest.approx(float(feature_discrepancy_loss(*parts).detach()))


def test_a_trial_that_may_not_read_test_images_is_refused_them(data: Path, tmp_path: Path) -> None:
    trial = trial_of(opens_test=False)
    with pytest.raises(DataError, match="tnbc, monuseg hold test images"):
        run_trial(folder_of(tmp_path, trial), trial, data)
    assert not load_results(tmp_path)


@pytest.mark.parametrize("strategy", ["local", "pooled", "fedbn"])
def test_every_kind_of_model_is_tested_at_its_own_site(
    strategy: str, data: Path, tmp_path: Path
) -> None:
    trial = trial_of(strategy, plan={"strategy": strategy, "loss": "seg", "rounds": 2})
    result = run(trial, data, tmp_path)
    document = json.loads((folder_of(tmp_path, trial) / "run" / "results.json").read_text())
    for site in SITES:
        scores = [i.dice for i in result.images if i.site == site and i.dice is not None]
        assert np.mean(scores) == pytest.approx(document["sites"][site]["dice"], abs=1e-6)


def test_trainers_are_trials_too_and_parameters_make_them_another(
    data: Path, tmp_path: Path
) -> None:
    plan = {"strategy": "fedavg", "loss": "seg", "rounds": 2}
    plain, ditto = trial_of("fedavg", plan=plan), trial_of("ditto", plan=plan, trainer="ditto")
    other = replace(ditto, parameters={"weight": 1.0})
    assert len({plain.name, ditto.name, other.name}) == 3
    result = run(ditto, data, tmp_path)
    assert {image.site for image in result.images} == set(SITES)
    assert result.bytes["up"] > 0
    # Its models are kept for the figures, its state is not.
    folder = folder_of(tmp_path, ditto) / "run"
    assert sorted(p.stem for p in (folder / "models").iterdir()) == sorted(SITES)
    assert not (folder / "state").exists()


def test_a_site_may_have_a_share_of_its_training_images(data: Path, tmp_path: Path) -> None:
    plan = {"strategy": "fedavg", "loss": "seg", "rounds": 2}
    whole = run(trial_of("fedavg", plan=plan), data, tmp_path / "whole")
    shared = trial_of("fedavg", plan=plan, shares={"monuseg": 0.25})
    part = run(shared, data, tmp_path / "part")
    counts = []
    for out, trial in (("whole", trial_of("fedavg", plan=plan)), ("part", shared)):
        document = (folder_of(tmp_path / out, trial) / "run" / "results.json").read_text()
        sites = json.loads(document)["sites"]
        counts.append({site: entry["n_train"] for site, entry in sites.items()})
    assert counts[1] == {"tnbc": counts[0]["tnbc"], "monuseg": -(-counts[0]["monuseg"] // 4)}
    assert [i.image for i in part.images] == [i.image for i in whole.images]
    assert part.curve != whole.curve


def test_a_share_above_one_is_a_number_of_images(data: Path, tmp_path: Path) -> None:
    plan = {"strategy": "fedavg", "loss": "seg", "rounds": 1}
    trial = trial_of("fedavg", plan=plan, shares={"monuseg": 3.0})
    run(trial, data, tmp_path)
    document = json.loads((folder_of(tmp_path, trial) / "run" / "results.json").read_text())
    assert document["sites"]["monuseg"]["n_train"] == 3


@pytest.mark.parametrize("cut", [1, 4])
def test_a_site_joins_a_trained_federation_also_when_the_trial_was_cut(
    cut: int, data: Path, tmp_path: Path
) -> None:
    joining = trial_of(joins_after=3)
    whole = run(joining, data, tmp_path / "whole")
    # Three rounds of one site, and then of both.
    assert [sorted(dice) for _, dice in whole.curve] == [["tnbc"]] * 3 + [["monuseg", "tnbc"]] * 2
    folder = folder_of(tmp_path / "cut", joining)
    with pytest.raises(KeyboardInterrupt):
        run_trial(folder, joining, data, progress=Progress(observer=CutAfter(cut)))
    assert run(joining, data, tmp_path / "cut").curve == whole.curve
    alone = run(trial_of(plan={"sites": ("tnbc",), "loss": "fd"}), data, tmp_path / "alone")
    assert [dice for _, dice in whole.curve[:3]] == [dice for _, dice in alone.curve[:3]]


def test_the_rounds_before_joining_are_trained_once_for_all_who_join(
    data: Path, tmp_path: Path
) -> None:
    shelf, trained = tmp_path / "shelf", []
    few, many = (trial_of(joins_after=3, shares={"monuseg": n}) for n in (2.0, 5.0))
    own = run(many, data, tmp_path / "own")
    for trial in (few, many):
        counter = Counter()
        run(trial, data, tmp_path, shelf=shelf, progress=Progress(observer=counter))
        trained.append(counter.rounds)
    assert trained == [[1, 2, 3, 4, 5], [4, 5]]
    found = load_results(tmp_path)
    assert found[many.name].shared_rounds == 3
    timeless = {"seconds": 0.0, "whole_seconds": 0.0, "shared_rounds": 0}
    assert replace(found[many.name], **timeless) == replace(own, **timeless)
    assert found[few.name].curve[:3] == own.curve[:3]
    assert found[few.name].curve[3:] != own.curve[3:]


@pytest.mark.bad_input
def test_a_result_that_was_copied_without_its_model_is_named(tmp_path: Path) -> None:
    trial = trial_of()
    with pytest.raises(InvalidInput, match=r"has a result and lacks its .*remove that"):
        final_network(folder_of(tmp_path, trial), trial.plan)


def test_an_unseen_site_is_tested_on_all_its_images(data: Path, tmp_path: Path) -> None:
    plan = {"sites": ("tnbc",), "strategy": "fedavg", "loss": "seg", "rounds": 2}
    result = run(trial_of("fedavg", plan=plan, evaluate=("monuseg",)), data, tmp_path)
    unseen = open_sites(trial_of().plan, data)["monuseg"]
    assert len([i for i in result.images if i.site == "monuseg"]) == len(unseen.all_cases)


def test_a_run_that_diverged_scores_zero_on_every_image(data: Path) -> None:
    sites = open_sites(trial_of().plan, data)
    images = diverged_test_images(sites)
    assert len(images) == sum(len(site.parts["test"]) for site in sites.values())
    assert {image.dice for image in images} == {0.0}


def test_a_sham_differs_from_the_exchange_and_repeats_also_when_it_was_cut(
    finished: tuple[Path, TrialResult], data: Path, tmp_path: Path
) -> None:
    sham = trial_of("sham", trainer="sham")
    whole = run(sham, data, tmp_path / "whole")
    cut = folder_of(tmp_path / "cut", sham)
    with pytest.raises(KeyboardInterrupt):
        run_trial(cut, sham, data, progress=Progress(observer=CutAfter(4)))
    again = run(sham, data, tmp_path / "cut")
    _, real = finished
    # Three rounds of phase 1 are the same for both; phase 2 begins with no cotangent to permute.
    assert whole.curve[:3] == real.curve[:3]
    weights = [
        load_file(folder_of(out, trial) / "run" / "model.safetensors")["head.weight"]
        for out, trial in (
            (tmp_path / "whole", sham), (tmp_path / "cut", sham), (finished[0], trial_of())
        )
    ]  # fmt: skip
    assert whole.curve == again.curve
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert whole.exchange["answered"] == real.exchange["answered"]

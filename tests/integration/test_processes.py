"""Coordinator and agents as separate operating-system processes over TLS, on real images where
they are at hand, to the end; and the same federation in one process gives the same bits."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fdfed.audit import exported, verify
from tests.deployment import Deployment, assert_equal_bits, deployed, model_of, simulated

SITES = ("tnbc", "monuseg")
RUN = {
    "sites": list(SITES),
    "width": 4,
    "size": 32,
    "rounds": 4,
    "steps_per_round": 2,
    "batch_size": 4,
    "warm_start": True,
    # A secret from the seed, so that all runs compute the same bits; one test has a fresh one.
    "exchange": {"required": True, "blinding": "deterministic"},
}


def real_data() -> Path | None:
    """The folder of real sites, if there is one: FDFED_DATA, else ../shared/data."""
    places = [os.environ.get("FDFED_DATA"), Path(__file__).parents[3] / "shared" / "data"]
    for place in places:
        if place and all((Path(place) / site / "images").is_dir() for site in SITES):
            return Path(place)
    return None


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    deployment = deployed(tmp_path / "federation", SITES, RUN, data=real_data())
    yield deployment
    deployment.stop()


@pytest.mark.slow
def test_separate_processes_over_tls_end_and_equal_the_simulation_bit_for_bit(
    deployment: Deployment, tmp_path: Path
) -> None:
    for name in ("server", *SITES):
        deployment.start(name)
    assert deployment.await_end("server") == 0, deployment.log("server")
    results = json.loads((deployment.state / "results" / "results.json").read_text())
    assert set(results["sites"]) == set(SITES)
    assert len(results["rounds"]) == RUN["rounds"]
    assert results["exchange"]["steps"] == 2 * 2 * 1  # sites × steps × rounds of phase 2
    assert results["exchange"]["answered"] == results["exchange"]["steps"]
    assert results["exchange"]["peers_mean"] == 1
    assert results["phantoms"] is (deployment.data is None)
    assert results["privacy"]["sealed"] is True
    assert results["privacy"]["blinded"] is False
    for name in ("server", *SITES):
        first = deployment.log(name).splitlines()[0]
        assert "layers: mutual TLS; prototypes are sealed (mlkem768-x25519)" in first, first
    assert "per_image" not in results
    assert verify(deployment.state).findings == []
    for site in SITES:
        deployment.await_log(site, "evaluate message answered")
        local = list((deployment.folder / "sites" / site / "state" / "local").glob("*/images.csv"))
        assert len(local) == 1, "the site's own report is missing"
        assert_audited(deployment, site)
    assert_equal_bits(model_of(deployment), simulated(deployment, tmp_path / "simulation", RUN))


def assert_audited(deployment: Deployment, site: str) -> None:
    """The site's log is sound, and has a line for each thing that left."""
    verdict = verify(deployment.folder / "sites" / site / "state")
    assert verdict.findings == []
    lines = [json.loads(line) for line in exported(deployment.folder / "sites" / site / "state")]
    left = Counter((x["kind"], x.get("state")) for x in lines if x["direction"] == "out")
    assert left["prepared", None] == 1
    assert left["trained", None] == RUN["rounds"]
    # One round of phase 2.
    assert left["prototypes", "begun"] == left["prototypes", "ended"] == 1
    (ended,) = [line for line in lines if line.get("state") == "ended"]
    assert ended["frames"] == RUN["steps_per_round"]
    assert not [line for line in lines if line.get("decision") == "refused"]


@pytest.mark.thorough
def test_with_a_secret_of_the_sites_alone_the_result_differs_by_rounding_alone(
    deployment: Deployment, tmp_path: Path
) -> None:
    text = deployment.config.read_text()
    deployment.config.write_text(text.replace('blinding = "deterministic"', 'blinding = "on"'))
    for name in ("server", *SITES):
        deployment.start(name)
    assert deployment.await_end("server") == 0, deployment.log("server")
    assert "blinding: on" in deployment.log("server")
    for site in SITES:
        assert "with a secret of monuseg, tnbc" in deployment.log(site)
        assert "two sites alone" in deployment.log(site)
        assert (deployment.folder / "sites" / site / "state" / "group-epoch").exists()
    results = json.loads((deployment.state / "results" / "results.json").read_text())
    assert results["privacy"]["blinded"] is True
    assert results["exchange"]["answered"] == 2 * 2 * 1
    expected = simulated(deployment, tmp_path / "simulation", RUN)
    for name, value in model_of(deployment).items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.thorough  # tests/faults/test_drills.py kills every party, on phantoms
def test_a_killed_coordinator_goes_on_where_it_was_and_changes_no_bit(
    deployment: Deployment, tmp_path: Path
) -> None:
    # In half precision, so that what rounding left out of a round must be there in the next.
    text = deployment.config.read_text()
    deployment.config.write_text(text.replace("[run]\n", '[run]\nupdate_precision = "bf16"\n'))
    plan = RUN | {"update_precision": "bf16"}
    for name in ("server", *SITES):
        deployment.start(name)
    deployment.await_log("server", "round 2 is complete")
    deployment.processes["server"].kill()
    deployment.await_end("server")
    deployment.start("server")
    assert deployment.await_end("server") == 0, deployment.log("server")
    assert deployment.log("server").count("round 2 is complete") == 1
    assert_equal_bits(model_of(deployment), simulated(deployment, tmp_path / "simulation", plan))


THREE = ("tnbc", "monuseg", "udiat")
MASKED = RUN | {"sites": list(THREE), "rounds": 2, "aggregation": "masked"}


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_masked_processes_end_and_equal_the_simulation_bit_for_bit(tmp_path: Path) -> None:
    """The sum is exact, so that other keys, and the order of arrival, change no bit of it."""
    deployment = deployed(tmp_path / "federation", THREE, MASKED, data=None)
    try:
        for name in ("server", *THREE):
            deployment.start(name)
        assert deployment.await_end("server", 400) == 0, deployment.log("server")
        assert "weights: masked, this process reads their sum alone" in deployment.log("server")
        for site in THREE:
            assert "weights: masked if the plan is, among 3 sites" in deployment.log(site)
            assert "aggregation: masked among monuseg, tnbc, udiat" in deployment.log(site)
        results = json.loads((deployment.state / "results" / "results.json").read_text())
        assert results["privacy"]["secure_aggregation"] is True
        assert results["rounds"][1]["drift"] is None
        assert results["rounds"][1]["sites"]["udiat"]["loss_seg"] is None
        assert results["rounds"][1]["loss_seg"] > 0
        assert_equal_bits(model_of(deployment), simulated(deployment, tmp_path / "one", MASKED))
    finally:
        deployment.stop()


@pytest.mark.slow
def test_a_plan_that_masks_among_two_is_refused_by_sites_that_ask_for_three(
    tmp_path: Path,
) -> None:
    plan = RUN | {"aggregation": "masked"}
    deployment = deployed(tmp_path / "federation", SITES, plan, data=None)
    try:
        for name in ("server", *SITES):
            deployment.start(name)
        assert deployment.await_end("server") != 0
        log = deployment.log("server")
        assert "masked, but of two sites each has the other's update" in log
        assert "its own policy forbids it" in log
        for site in SITES:
            assert "min_masked_sites is 3" in deployment.log(site), deployment.log(site)
    finally:
        deployment.stop()

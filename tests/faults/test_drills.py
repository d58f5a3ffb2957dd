"""A small fixed set of the drills that `make soak` runs by the hundred: one run, and in each of its
rounds another party is killed or another line is cut. Not a bit of the result differs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.deployment import simulated
from tests.faults.drills import KINDS, PLAN, SITES, Drill, random_drills, run_drills
from tests.faults.federation import Drilled, drilled

FEW = dict(PLAN) | {"rounds": 5}
DRILLS = (
    Drill("lose answers on", "monuseg/fleet", server_round=1, after=0.0, lasts=0.5),
    Drill("kill", "superlink", server_round=2, after=0.1, lasts=0.1),
    Drill("kill", "tnbc", server_round=3, after=0.1, lasts=0.1),
    Drill("reset", "monuseg/exchange", server_round=4, after=0.1, lasts=0.0),
    Drill("kill", "server", server_round=5, after=0.1, lasts=0.1),
)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drilled]:
    made = drilled(tmp_path_factory.mktemp("drills") / "federation", SITES, FEW)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def expected(
    federation: Drilled, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    plan = FEW | {"phantoms": True}
    return simulated(federation, tmp_path_factory.mktemp("undisturbed"), plan)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_of_which_every_party_is_killed_gives_the_undisturbed_weights_bit_for_bit(
    federation: Drilled, expected: dict[str, np.ndarray]
) -> None:
    outcome = run_drills(federation, DRILLS, expected)
    assert outcome.failure == "", federation.log("server")
    assert outcome.starts == {"server": 2, "tnbc": 2, "monuseg": 1}


def test_a_seed_gives_the_same_faults_again_and_each_kind_comes_up() -> None:
    assert random_drills(3, 3) == random_drills(3, 3)
    kinds = {drill.kind for seed in range(60) for drill in random_drills(seed, 3)}
    assert kinds == set(KINDS)

"""The cross-site terms of a private round, and what a private answer may hold."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from fdfed.config import RunPlan
from fdfed.errors import PrivacyBudgetExceeded, WireError
from fdfed.evaluation.results import RoundRecord, SitePrivacy, SiteRound
from fdfed.exchange import TapLayout
from fdfed_server.private_terms import check_release, stop_if_spent, terms_of_releases
from fdfed_server.status import StatusWriter, read_status
from tests.plans import PHASED

LAYOUT = TapLayout(("Enc1", "Bot"), (4, 64))
PLAN = RunPlan.model_validate(
    PHASED
    | {
        "sites": ["a", "b"],
        "rounds": 4,  # phase 1 is three rounds; only a fourth of five would release prototypes
        "norm": "group",
        "alpha": {"mode": "fixed"},
        "privacy": {
            "epsilon": 8.0,
            "delta": "derived",
            "unit": "image",
            "weights": {"noise_multiplier": 1.0, "max_grad_norm": 1.0},
            "prototypes": {"noise_multiplier": 4.0, "max_norm": 2.0, "dimensions": 8},
        },
    }
)
LONGER = PLAN.model_copy(update={"rounds": 5})
SIZE = 2 * (4 + 8)


def test_cotangents_are_those_of_the_equation_at_the_released_means() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, SIZE))
    found = terms_of_releases(PLAN, LAYOUT, {"a": a, "b": b})
    # By hand at Bot, dimensions 4 to 12 of each half (method: -log D, D = |F_a-B_b|² + |F_b-B_a|²;
    # dL/dF_a = -2 (F_a - B_b) / (D + eps)).
    F_a, F_b, B_a, B_b = a[4:12], b[4:12], a[16:24], b[16:24]
    D = ((F_a - B_b) ** 2).sum() + ((F_b - B_a) ** 2).sum()
    assert found.pair_terms[1] == pytest.approx(-np.log(D + PLAN.method.eps))
    expected = -2 * (F_a - B_b) / (D + PLAN.method.eps)
    np.testing.assert_allclose(found.cotangents["a"][4:12], expected)
    assert set(found.cotangents) == {"a", "b"}


def test_one_site_alone_has_no_term() -> None:
    found = terms_of_releases(PLAN, LAYOUT, {"a": np.ones(SIZE)})
    assert np.isnan(found.pair_terms).all()
    assert not found.cotangents


@pytest.mark.parametrize(
    ("server_round", "released", "said"),
    [
        (4, None, "missing"),
        (3, np.zeros(SIZE), "releases none"),
        (5, np.zeros(SIZE), "releases none"),
        (4, np.zeros(SIZE + 1), "the plan has 24"),
    ],
)
def test_a_release_that_the_plan_does_not_have_is_refused(
    server_round: int, released: np.ndarray | None, said: str
) -> None:
    with pytest.raises(WireError, match=said):
        check_release(LONGER, LAYOUT, server_round, released)


def test_a_release_as_the_plan_has_it_is_taken() -> None:
    check_release(LONGER, LAYOUT, 4, np.zeros(SIZE))
    check_release(LONGER, LAYOUT, 5, None)
    check_release(RunPlan(), LAYOUT, 30, None)


@pytest.mark.parametrize(
    "failure",
    ["PrivacyBudgetExceeded", "PrivacyBudgetExceeded: its privacy budget is spent; its log…"],
)
def test_a_site_whose_budget_is_spent_ends_the_training(failure: str) -> None:
    with pytest.raises(PrivacyBudgetExceeded, match="before round 7: the privacy budget of a"):
        stop_if_spent("a", failure, 7)


@pytest.mark.parametrize("failure", ["", "node unavailable", "DataError", "NotPrivacyBudget"])
def test_other_failures_are_not_of_the_budget(failure: str) -> None:
    stop_if_spent("a", failure, 7)


@pytest.mark.parametrize("private", [False, True])
def test_the_status_shows_epsilon_where_there_is_one_and_nowhere_else(
    tmp_path: Path, private: bool
) -> None:
    from rich.console import Console

    from fdfed_server.cli.status import _render

    spent = SitePrivacy(epsilon=1.25, delta=0.02, unit="image", units=36) if private else None
    writer = StatusWriter(tmp_path, list)
    writer.run_started(PLAN, 0)
    writer.round_finished(RoundRecord(round=1, phase=1, sites={"a": SiteRound(privacy=spent)}))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(_render(read_status(tmp_path)))
    text = console.export_text()
    assert ("ε" in text) == private
    assert ("1.25" in text) == private
    assert json.loads((tmp_path / "status.json").read_text())["sites"]["a"]["epsilon"] == (
        1.25 if private else None
    )

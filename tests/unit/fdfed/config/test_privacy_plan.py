"""The `[run.privacy]` table."""

from __future__ import annotations

from typing import Any

import pytest

from fdfed.config import RunPlan, parse, releases_prototypes
from fdfed.errors import InvalidInput

PRIVACY: dict[str, Any] = {
    "epsilon": 8.0,
    "delta": 1e-3,
    "unit": "patient",
    "weights": {"noise_multiplier": 1.0, "max_grad_norm": 1.0},
    "prototypes": {"noise_multiplier": 8.0, "max_norm": 4.0, "dimensions": 16},
}
RUN: dict[str, Any] = {"norm": "group", "alpha": {"mode": "ramp"}, "privacy": PRIVACY}


def plan_of(**changes: Any) -> RunPlan:
    return parse(RunPlan, RUN | changes, source="the test")


def without(*keys: str, **changes: Any) -> dict[str, Any]:
    return {k: v for k, v in (PRIVACY | changes).items() if k not in keys}


def test_a_plan_without_the_table_has_no_privacy_and_swaps_every_batch() -> None:
    plan = RunPlan()
    assert plan.privacy is None
    assert plan.swaps_batches
    assert not any(releases_prototypes(plan, n) for n in range(1, plan.rounds + 1))


def test_a_private_plan_survives_its_canonical_text() -> None:
    plan = plan_of()
    assert RunPlan.from_json(plan.to_json()) == plan
    assert not plan.swaps_batches


def test_prototypes_leave_in_the_rounds_of_phase_2_that_have_a_next_one() -> None:
    plan = plan_of(rounds=7)  # phase 1 is ⌈7 · 100/175⌉ = 4 rounds
    assert [n for n in range(1, 8) if releases_prototypes(plan, n)] == [5, 6]
    plan = plan_of(rounds=3, warm_start=False)
    assert [n for n in range(1, 4) if releases_prototypes(plan, n)] == [1, 2]


@pytest.mark.parametrize("key", ["epsilon", "delta", "unit", "weights"])
def test_no_value_that_decides_privacy_has_a_default(key: str) -> None:
    with pytest.raises(InvalidInput, match=rf"privacy\.{key}"):
        plan_of(privacy=without(key))


@pytest.mark.parametrize("table", ["weights", "prototypes"])
def test_neither_noise_nor_norm_nor_dimensions_have_a_default(table: str) -> None:
    for key in PRIVACY[table]:
        part = {k: v for k, v in PRIVACY[table].items() if k != key}
        with pytest.raises(InvalidInput, match=rf"privacy\.{table}.*{key}"):
            plan_of(privacy=PRIVACY | {table: part})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm": "batch"}, "norm = batch makes one image's features depend on the others"),
        ({"precision": "amp"}, "rounds clipping and noise too coarsely"),
        ({"precision": "auto"}, "rounds clipping and noise too coarsely"),
        ({"strategy": "local", "loss": "fd"}, "strategy = local releases nothing"),
        ({"strategy": "pooled", "loss": "fd"}, "strategy = pooled puts all images in one place"),
        ({"strategy": "fedbn", "loss": "fd"}, "strategy = fedbn keeps the norms at the site"),
        ({"strategy": "fedprox", "loss": "fd"}, "use fdfed or fedavg"),
        ({"alpha": {"mode": "dual"}}, "alpha.mode = dual follows the training losses"),
        ({"preset": "paper", "alpha": {"mode": "paper"}}, "alpha.mode = paper follows"),
        ({"loss": "con"}, "loss = con couples the images of a batch"),
        ({"loss": "deeps"}, "loss = deeps couples the images of a batch"),
        ({"exchange": {"required": True}}, "prototypes leave once a round here"),
        ({"loss": "seg"}, r"loss = seg releases no prototypes; remove \[run.privacy.prototypes\]"),
        ({"privacy": without("prototypes")}, "loss = fd\\+exch releases prototypes"),
        ({"privacy": without("prototypes", weights="unprotected"), "loss": "fd"}, "nothing"),
        ({"privacy": PRIVACY | {"delta": 0.0}}, "no probability"),
        ({"privacy": PRIVACY | {"delta": 1.0}}, "no probability"),
        ({"aggregation": "masked", "sites": ["a", "b", "c"]}, "use aggregation = plain"),
        ({"aggregation": "robust", "sites": ["a", "b", "c"]}, "averages out in a mean alone"),
    ],
)
def test_what_has_no_meaning_beside_privacy_is_refused_with_the_reason(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        plan_of(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "seg", "privacy": without("prototypes")},
        {"loss": "fd", "strategy": "fedavg", "privacy": without("prototypes")},
        {"privacy": PRIVACY | {"weights": "unprotected"}},
        {"privacy": PRIVACY | {"delta": "derived", "unit": "image"}},
    ],
)
def test_what_fits_together_is_accepted(changes: dict[str, Any]) -> None:
    assert plan_of(**changes).privacy is not None


def test_that_weights_leave_without_noise_is_said_loudly() -> None:
    bare = plan_of(privacy=PRIVACY | {"weights": "unprotected"}).privacy
    assert bare is not None
    assert "WEIGHTS LEAVE WITHOUT NOISE" in bare.summary()
    full = plan_of().privacy
    assert full is not None
    assert "exactness is off" in full.summary()
    assert "WITHOUT" not in full.summary()

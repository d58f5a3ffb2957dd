"""The run plan: presets of the method, the learning rate over the rounds."""

from __future__ import annotations

import pytest

from fdfed.config import AlphaPlan, MethodPlan, RunPlan, parse, preset
from fdfed.errors import InvalidInput


def run_plan(**values: object) -> RunPlan:
    return parse(RunPlan, values, source="the test")


def test_the_preset_paper_is_the_published_equations_to_the_letter() -> None:
    plan = run_plan(preset="paper")
    assert plan.method == MethodPlan(
        pooling="sum", mask_pooling="max", bound="none", form="paper", eps=1e-6
    )
    assert plan.alpha.mode == "paper"
    assert plan.phase_2_start == "best"


def test_the_preset_fdfed_is_the_defaults() -> None:
    plan = run_plan(preset="fdfed")
    assert plan == RunPlan()
    assert (plan.method, plan.alpha) == (MethodPlan(), AlphaPlan())


def test_what_a_table_says_itself_comes_before_its_preset() -> None:
    plan = run_plan(preset="paper", method={"bound": "cap"}, alpha={"rate": 0.1})
    assert (plan.method.pooling, plan.method.bound) == ("sum", "cap")
    assert (plan.alpha.mode, plan.alpha.rate) == ("paper", 0.1)


def test_a_preset_chooses_neither_loss_nor_strategy() -> None:
    assert set(preset("paper")) == {"warm_start", "phase_2_start", "method", "alpha"}
    assert run_plan(preset="paper", strategy="fedavg").effective_loss == "seg"


def test_a_plan_made_from_a_preset_is_the_same_plan_as_one_written_out() -> None:
    plan = run_plan(preset="paper")
    assert plan == run_plan(**preset("paper"))
    assert RunPlan.from_json(plan.to_json()).digest == plan.digest
    assert "preset" not in plan.to_json()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "papier"}, "preset papier is not known; use one of: paper, fdfed"),
        ({"preset": "paper", "method": {"poling": "map"}}, "method.poling"),
        ({"preset": "paper", "method": 3}, "method"),
    ],
)
def test_an_unknown_preset_or_key_beside_one_is_named(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        run_plan(**values)


def test_a_plan_in_which_no_prototype_would_ever_be_sent_is_refused() -> None:
    with pytest.raises(ValueError, match="raise the batch size"):
        RunPlan.model_validate({"sites": ["a", "b"], "batch_size": 1})
    assert RunPlan.model_validate({"sites": ["a", "b"], "batch_size": 1, "loss": "fd"})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"strategy": "local"}, "strategy = local sends no weights"),
        ({"strategy": "pooled"}, "strategy = pooled sends no weights"),
        ({"sites": ["tnbc"]}, "with the one site tnbc: the sum is that site's update"),
        ({"aggregation": "hidden"}, "aggregation: Input should be 'plain', 'masked' or 'robust'"),
    ],
)
def test_what_does_not_go_with_masked_aggregation_is_refused_with_the_reason(
    changes: dict[str, object], reason: str
) -> None:
    values = {"sites": ["tnbc", "monuseg", "udiat"], "aggregation": "masked"}
    with pytest.raises(InvalidInput, match=reason):
        parse(RunPlan, values | changes, source="the test")
    assert parse(RunPlan, values, source="the test").aggregation == "masked"


def test_runs_that_repeat_bit_for_bit_have_no_replies_that_are_late_by_the_clock() -> None:
    with pytest.raises(InvalidInput, match=r"max_staleness above 0 .* follows the clock"):
        run_plan(exchange={"max_staleness": 1, "blinding": "deterministic"})
    assert run_plan(exchange={"blinding": "deterministic"}).exchange.max_staleness == 0


@pytest.mark.parametrize("bound", [-1, 17])
def test_a_bound_of_staleness_beyond_what_hub_and_sites_keep_is_refused(bound: int) -> None:
    with pytest.raises(InvalidInput, match="max_staleness"):
        run_plan(exchange={"max_staleness": bound})


def test_fedbn_has_batch_norm_unless_the_plan_says_otherwise() -> None:
    assert run_plan(strategy="fedbn").norm == "batch"
    assert run_plan(strategy="fedbn", norm="group").norm == "group"
    assert run_plan(strategy="fedavg").norm == "group"


def test_what_a_table_says_of_phases_comes_before_its_preset() -> None:
    assert run_plan(preset="paper").phase_1_rounds > 0
    assert run_plan(preset="paper", warm_start=False).phase_1_rounds == 0
    assert run_plan(preset="paper", phase_2_start="last").phase_2_start == "last"


def test_a_constant_learning_rate_is_that_of_every_round() -> None:
    plan = run_plan(learning_rate=0.2, learning_rate_schedule="constant", rounds=4)
    assert [plan.learning_rate_in(r) for r in (1, 2, 4, 5)] == [0.2] * 4


def test_a_falling_learning_rate_is_that_worked_by_hand() -> None:
    plan = run_plan(learning_rate=0.2, learning_rate_schedule="poly", rounds=4)
    # (1 - (r - 1) / 4)^0.9 for r = 1, 2, 3, 4: 1, 0.75^0.9, 0.5^0.9, 0.25^0.9
    assert [plan.learning_rate_in(r) for r in (1, 2, 3, 4)] == pytest.approx(
        [0.2, 0.2 * 0.771890, 0.2 * 0.535887, 0.2 * 0.287175], rel=1e-5
    )
    assert plan.learning_rate_in(5) == plan.learning_rate_in(4)

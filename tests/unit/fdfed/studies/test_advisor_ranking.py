"""How well an order of candidates agrees with what they brought, worked by hand."""

from __future__ import annotations

import pytest

from fdfed.advisor import Observation
from fdfed.studies.advisor.files import results_section
from fdfed.studies.advisor.ranking import rankings


def seen(base: str, novel: str, change: float, *, shift: float, share: float = 0.5) -> Observation:
    return Observation(
        base=base,
        novel=novel,
        phantoms=True,
        change=change,
        shift=shift,
        share=share,
        histogram=0.25,
        classifier=0.5,
    )


@pytest.fixture
def observations() -> list[Observation]:
    return [
        # Two seeds: means 0.02 at shift 1.
        seen("a", "b", 0.01, shift=0.5, share=0.2),
        seen("a", "b", 0.03, shift=1.5, share=0.2),
        seen("a", "c", 0.05, shift=2.0, share=0.6),
        seen("a", "d", -0.10, shift=3.0, share=0.4),
        # Perfectly the wrong way round, by shift and by share.
        seen("b", "a", 0.00, shift=1.0, share=0.8),
        seen("b", "c", 0.02, shift=2.0, share=0.5),
        seen("b", "d", 0.04, shift=3.0, share=0.2),
        # Too few candidates to count.
        seen("c", "a", 0.50, shift=9.0),
        seen("c", "b", -0.50, shift=1.0),
    ]


def test_orders_are_compared_within_each_base(observations: list[Observation]) -> None:
    by_name = {entry.predictor: entry for entry in rankings(observations)}
    shift = by_name["shift"]
    # Base a: ranks of closeness (3, 2, 1) and of change (2, 3, 1): 1 - 6 * 2 / (3 * 8) = 0.5.
    # Base b: -1.
    assert shift.rank == pytest.approx((0.5 - 1) / 2)
    assert (shift.hits, shift.bases) == (0, 2)
    assert shift.missed == pytest.approx((0.05 - 0.02 + 0.04 - 0.00) / 2)
    # The most images first: at a the best candidate, with ranks (1, 3, 2) and (2, 3, 1): 0.5.
    assert by_name["share"].rank == pytest.approx((0.5 - 1) / 2)
    assert by_name["share"].hits == 1
    # All candidates alike.
    assert by_name["histogram"].rank == 0


def test_there_is_no_order_of_two(observations: list[Observation]) -> None:
    assert rankings(observations[-2:]) == []
    assert rankings([]) == []


def test_the_page_has_the_orders_beside_the_forecasts() -> None:
    several = [
        seen(base, novel, -0.01 * number, shift=0.1 * number)
        for number, (base, novel) in enumerate(
            (base, novel) for base in "abcde" for novel in "abcde" if novel != base
        )
    ]
    text = results_section({"phantoms": several}, {"phantoms": (20, 20)})
    assert "| shift of prototypes (the advisor), least first | +1.00 | 5 of 5 | 0.0 |" in text
    assert "| share of images added, most images first | +0.00 |" in text

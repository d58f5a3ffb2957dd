"""The bound that a plan names reaches the coordinator's cross-site term."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fdfed.config import RunPlan
from fdfed_server.strategy import Strategy


@pytest.mark.parametrize(("bound", "distance"), [("none", 20.0), ("normalise", 20.0), ("cap", 8.0)])
def test_the_cross_site_term_counts_distances_up_to_the_cap_alone(
    bound: str, distance: float
) -> None:
    plan = RunPlan.model_validate(
        {"sites": ["a", "b"], "width": 4, "in_channels": 1, "method": {"bound": bound}}
    )
    strategy = Strategy(plan)
    layout = strategy.layout
    # One non-zero entry a tap and class: F_a = 3, B_a = 1, F_b = -1, B_b = -1, so
    # D = (3 + 1)² + (-1 - 1)² = 20 > 8. Sites normalise before they send; the hub never does.
    vectors = np.zeros((2, layout.size))
    for _, fore, back in layout.spans():
        vectors[:, fore.start], vectors[:, back.start] = (3.0, -1.0), (1.0, -1.0)
    terms = strategy.cross_site_terms(layout, vectors, np.ones((2, layout.taps), np.bool_))
    np.testing.assert_allclose(terms.pair_terms, -math.log(distance + 1e-6))
    assert np.any(terms.cotangents != 0) == (bound != "cap")

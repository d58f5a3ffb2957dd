"""How close the sites are, pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fdfed.exchange import TapLayout
from fdfed.losses import exchange_loss
from fdfed_server.pairs import MAX_SITES, PairMeans, pair_terms

ONE = TapLayout(names=("Bot",), channels=(2,))


def test_the_terms_are_those_of_the_equations_worked_by_hand() -> None:
    # F_a = (0,0), B_a = (1,0); F_b = (0,2), B_b = (0,1).
    vectors = np.array([[0.0, 0.0, 1.0, 0.0], [0.0, 2.0, 0.0, 1.0]])
    (terms,) = pair_terms(ONE, vectors, np.ones((2, 1), bool))
    # |F_a - B_b|² = 1 and |F_b - B_a|² = 1 + 4 = 5: D = 6. Within: |F_a - B_a|² = 1, of b 1.
    assert terms[0, 1] == terms[1, 0] == pytest.approx(-math.log(6 + 1e-6))
    assert terms[0, 0] == terms[1, 1] == pytest.approx(-math.log(1 + 1e-6))


@given(seed=st.integers(0, 2**32 - 1), sites=st.integers(2, 5))
def test_the_mean_over_pairs_is_the_loss_that_the_sites_train(seed: int, sites: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, valid = rng.normal(size=(sites, 4)), np.ones((sites, 1), bool)
    (terms,) = pair_terms(ONE, vectors, valid)
    expected = exchange_loss(
        torch.from_numpy(vectors[:, :2]),
        torch.from_numpy(vectors[:, 2:]),
        torch.ones(sites, dtype=torch.bool),
    )
    assert terms[np.triu_indices(sites, 1)].mean() == pytest.approx(float(expected), rel=1e-9)


def test_a_tap_that_was_not_valid_is_in_no_pair() -> None:
    valid = np.array([[True], [False], [True]])
    (terms,) = pair_terms(ONE, np.random.default_rng(0).normal(size=(3, 4)), valid)
    assert np.isnan(terms[1]).all()
    assert np.isnan(terms[:, 1]).all()
    assert np.isfinite(terms[0, 2])


def test_a_round_s_means_are_over_the_steps_that_each_pair_had() -> None:
    pairs = PairMeans.empty(ONE, ("a", "b", "c"))
    near = np.array([[0.0, 0, 1, 0], [0, 0, 1, 0]])
    far = np.array([[0.0, 0, 10, 0], [0, 0, 10, 0]])
    pairs.add((0, 2), near, np.ones((2, 1), bool))
    pairs.add((0, 2), far, np.ones((2, 1), bool))
    pairs.add((0, 1), near, np.ones((2, 1), bool))
    pairs.add((0,), near[:1], np.ones((1, 1), bool))
    means = pairs.means()
    assert set(means) == {"a a", "a b", "b b", "a c", "c c"}
    # D = 2 and 200: the mean of the logarithms, not the logarithm of the mean.
    assert means["a c"]["Bot"] == pytest.approx(-(math.log(2) + math.log(200)) / 2, abs=1e-5)
    assert means["a b"]["Bot"] == pytest.approx(-math.log(2), abs=1e-5)


def test_of_too_many_sites_no_pairs_are_kept() -> None:
    sites = [f"s{i}" for i in range(MAX_SITES + 1)]
    pairs = PairMeans.empty(ONE, sites)
    pairs.add(range(len(sites)), np.ones((len(sites), 4)), np.ones((len(sites), 1), bool))
    assert pairs.means() == {}

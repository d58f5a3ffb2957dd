import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fdfed.exchange import TapLayout
from fdfed_server.terms import cross_site_terms

CMUNET = TapLayout(tuple(f"tap{i}" for i in range(9)), (64, 128, 256, 512, 1024, 512, 256, 128, 64))


def _loss(F: NDArray[np.float64], B: NDArray[np.float64], valid: NDArray[np.bool_]) -> float:
    """Eq. 4, pair by pair: the mean over unordered valid pairs of -log(D_st + 1e-6)."""
    here = [s for s in range(len(F)) if valid[s]]
    pairs = [
        -math.log(((F[s] - B[t]) ** 2).sum() + ((F[t] - B[s]) ** 2).sum() + 1e-6)
        for s in here
        for t in here
        if s < t
    ]
    return sum(pairs) / len(pairs) if pairs else math.nan


def test_two_sites_and_one_tap_worked_by_hand() -> None:
    layout = TapLayout(("tap",), (1,))
    # F_1 = 2, B_1 = 0; F_2 = 1, B_2 = 0.  D = (2 - 0)² + (1 - 0)² = 5, L = -log 5.
    # ∂L/∂F_1 = -2 · 2 / 5, ∂L/∂B_2 = +2 · 2 / 5, ∂L/∂F_2 = -2 · 1 / 5, ∂L/∂B_1 = +2 · 1 / 5.
    terms = cross_site_terms(
        layout, np.array([[2.0, 0.0], [1.0, 0.0]]), np.ones((2, 1), np.bool_), eps=0.0
    )
    np.testing.assert_allclose(terms.pair_terms, [-math.log(5)])
    np.testing.assert_allclose(terms.site_terms, [[-math.log(5)], [-math.log(5)]])
    np.testing.assert_allclose(terms.cotangents, [[-0.8, 0.4], [-0.4, 0.8]])


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), sites=st.integers(2, 6))
def test_every_term_and_cotangent_is_that_of_the_equation(seed: int, sites: int) -> None:
    rng = np.random.default_rng(seed)
    layout = TapLayout(("a", "b", "c"), (3, 5, 1))
    vectors = rng.normal(size=(sites, layout.size))
    valid = rng.random((sites, 3)) < 0.7
    terms = cross_site_terms(layout, vectors, valid)

    def loss(v: NDArray[np.float64], tap: int) -> float:
        F, B = (list(part.values())[tap] for part in layout.split(v))
        return _loss(F, B, valid[:, tap])

    for tap in range(3):
        expected = loss(vectors, tap)
        np.testing.assert_allclose(terms.pair_terms[tap], expected, rtol=1e-9, atol=1e-12)
    step = 1e-6
    site, element = int(rng.integers(sites)), int(rng.integers(layout.size))
    moved = [vectors.copy(), vectors.copy()]
    moved[0][site, element] += step
    moved[1][site, element] -= step
    slope = sum(
        (loss(moved[0], tap) - loss(moved[1], tap)) / (2 * step)
        for tap in range(3)
        if not math.isnan(terms.pair_terms[tap])
    )
    np.testing.assert_allclose(terms.cotangents[site, element], slope, rtol=1e-4, atol=1e-6)


def test_a_tap_with_fewer_than_two_valid_sites_has_no_term_and_no_cotangent() -> None:
    layout = TapLayout(("none", "one", "two"), (2, 2, 2))
    valid = np.array([[False, True, True], [False, False, True], [False, False, False]])
    vectors = np.random.default_rng(0).normal(size=(3, layout.size))
    terms = cross_site_terms(layout, vectors, valid)
    assert np.isnan(terms.pair_terms).tolist() == [True, True, False]
    assert np.isnan(terms.site_terms).tolist() == [
        [True, True, False],
        [True, True, False],
        [True, True, True],
    ]
    for part in layout.split(terms.cotangents):
        assert not part["none"].any()
        assert not part["one"].any()
        assert part["two"].any(axis=1).tolist() == [True, True, False]


def test_site_terms_are_the_means_over_valid_peers() -> None:
    layout = TapLayout(("tap",), (4,))
    vectors = np.random.default_rng(1).normal(size=(4, 8))
    valid = np.array([[True], [True], [False], [True]])
    terms = cross_site_terms(layout, vectors, valid)
    F, B = vectors[:, :4], vectors[:, 4:]
    for s in (0, 1, 3):
        peers = [_loss(F[[s, t]], B[[s, t]], np.array([True, True])) for t in (0, 1, 3) if t != s]
        np.testing.assert_allclose(terms.site_terms[s, 0], sum(peers) / 2)
    assert math.isnan(terms.site_terms[2, 0])


@pytest.mark.parametrize("sites", [2, 5, 12, 40])
def test_taps_computed_together_or_one_by_one_agree(sites: int) -> None:
    vectors = np.random.default_rng(2).normal(size=(sites, CMUNET.size))
    valid = np.ones((sites, 9), np.bool_)
    together = cross_site_terms(CMUNET, vectors, valid)
    foreground, background = CMUNET.split(vectors)
    for tap, name in enumerate(CMUNET.names):
        alone = cross_site_terms(
            TapLayout((name,), (CMUNET.channels[tap],)),
            np.concatenate([foreground[name], background[name]], axis=1),
            valid[:, :1],
        )
        np.testing.assert_allclose(together.pair_terms[tap], alone.pair_terms[0], rtol=1e-12)
        found = np.concatenate([part[name] for part in CMUNET.split(together.cotangents)], axis=1)
        np.testing.assert_allclose(found, alone.cotangents, rtol=1e-9, atol=1e-15)


def test_a_thousand_sites_take_seconds_and_agree_with_the_equation_on_a_sample() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(1000, CMUNET.size))
    valid = rng.random((1000, 9)) < 0.95
    start = time.perf_counter()
    terms = cross_site_terms(CMUNET, vectors, valid)
    assert time.perf_counter() - start < 60
    tap, site = 1, int(np.flatnonzero(valid[:, 1])[0])
    F, B = (part[CMUNET.names[tap]] for part in CMUNET.split(vectors))
    peers = valid[:, tap] & (np.arange(1000) != site)
    D = ((F[site] - B[peers]) ** 2).sum(1) + ((F[peers] - B[site]) ** 2).sum(1)
    np.testing.assert_allclose(terms.site_terms[site, tap], -np.log(D + 1e-6).mean(), rtol=1e-10)
    # ∂L/∂F_s = -2 Σ_t (F_s - B_t) / (D_st + ε), over the number of unordered pairs.
    pairs = valid[:, tap].sum() * (valid[:, tap].sum() - 1) / 2
    expected = (-2 * (F[site] - B[peers]) / (D + 1e-6)[:, None]).sum(0) / pairs
    found = CMUNET.split(terms.cotangents)[0][CMUNET.names[tap]][site]
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-15)

"""Each attack on blinding, where it is known exactly whether it succeeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist, squareform

from fdfed.exchange import BlindingSecret, StepKey, TapLayout
from fdfed.studies.privacy.collusion import blinded, opened
from fdfed.studies.privacy.gram import most_alike, points_from_distances, squared_distances
from fdfed.studies.privacy.known_plaintext import fit_isometry, undo
from fdfed.studies.privacy.known_sample import fit_by_principal_axes
from fdfed.studies.privacy.norms import longer_one_found
from fdfed.studies.privacy.peer import peer_by_inversion
from fdfed.studies.privacy.side_channel import fit_by_regression
from fdfed.studies.privacy.vectors import Array, mean_error, relative_error, stranger_error
from fdfed_server.terms import cross_site_terms

C = 8
LAYOUT = TapLayout(("tap",), (C,))


def key(step: int = 0) -> StepKey:
    return StepKey("0" * 16, 1, 1, step)


def rotation(rng: np.random.Generator, channels: int = C) -> Array:
    q, r = np.linalg.qr(rng.normal(size=(channels, channels)))
    turned: Array = q * np.sign(np.diag(r))
    return turned


def test_a_relative_error_is_worked_by_hand() -> None:
    # |(3, 4) - (0, 4)| / |(0, 4)| = 3 / 4.
    assert relative_error(np.array([3.0, 4.0]), np.array([0.0, 4.0])) == 0.75


def test_the_guesses_without_access_are_worked_by_hand() -> None:
    points = np.array([[1.0], [2.0]])
    # The stranger's for 1 is 2, error 1; for 2 it is 1, error 1/2.
    assert stranger_error(points) == 0.75
    # The mean of (2, 4) is 3: errors 2 and 1/2.
    assert mean_error(np.array([[2.0], [4.0]]), points) == 1.25


@given(seed=st.integers(0, 2**32 - 1))
def test_distances_are_those_of_scipy(seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(6, C))
    expected = squareform(pdist(points, "sqeuclidean"))
    np.testing.assert_allclose(squared_distances(points), expected, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1))
def test_distances_give_the_shape_of_a_configuration_and_nothing_else(seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(5, C))
    guess = points_from_distances(squared_distances(points), C)
    np.testing.assert_allclose(squared_distances(guess), squared_distances(points), atol=1e-9)
    # A turned configuration has the same distances, so the same guess up to signs.
    turned = points @ rotation(np.random.default_rng(seed + 1))
    np.testing.assert_allclose(squared_distances(turned), squared_distances(points), atol=1e-9)


def test_the_two_sites_that_are_most_alike_are_named() -> None:
    points = np.array([[0.0], [5.0], [9.0], [5.5]])
    assert most_alike(squared_distances(points)) == (1, 3)


@given(seed=st.integers(0, 2**32 - 1))
def test_one_pair_more_than_channels_gives_the_map_away(seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, t, plain = rotation(rng), rng.normal(size=C), rng.normal(size=(C + 1, C))
    fitted, moved = fit_isometry(plain, plain @ q.T + t)
    np.testing.assert_allclose(fitted, q, atol=1e-6)
    secret = rng.normal(size=(3, C))
    np.testing.assert_allclose(undo(fitted, moved, secret @ q.T + t), secret, atol=1e-5)


def test_the_fitted_map_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    plain, seen = rng.normal(size=(2, 20, C))
    fitted, _ = fit_isometry(plain, seen)
    expected, _ = orthogonal_procrustes(plain - plain.mean(0), seen - seen.mean(0))
    np.testing.assert_allclose(fitted, expected.T, atol=1e-10)


def test_few_pairs_do_not_give_the_map_away() -> None:
    rng = np.random.default_rng(0)
    q, plain = rotation(rng, 64), rng.normal(size=(8, 64))
    fitted, moved = fit_isometry(plain, plain @ q.T)
    secret = rng.normal(size=(20, 64))
    assert relative_error(undo(fitted, moved, secret @ q.T), secret) > 0.7


def test_principal_axes_find_a_map_without_any_pair() -> None:
    # Skewed, and of clearly different variances: what the attack needs, to the letter.
    rng = np.random.default_rng(0)
    known = rng.exponential(size=(4000, C)) * 2.0 ** np.arange(C)
    q, t = rotation(rng), rng.normal(size=C)
    fitted, moved = fit_by_principal_axes(known, known @ q.T + t)
    secret = rng.exponential(size=(20, C))
    assert relative_error(undo(fitted, moved, secret @ q.T + t), secret) < 1e-9


def test_principal_axes_find_nothing_if_every_sample_has_its_own_map() -> None:
    rng = np.random.default_rng(0)
    known = rng.exponential(size=(500, C)) * 2.0 ** np.arange(C)
    seen = np.stack([rotation(rng) @ row for row in known])
    fitted, moved = fit_by_principal_axes(known, seen)
    assert relative_error(undo(fitted, moved, seen), known) > 0.7


def test_regression_on_clean_gradients_is_exact_and_averages_noise_away() -> None:
    rng = np.random.default_rng(0)
    q, plain = rotation(rng), rng.normal(size=(2000, C))
    shown = plain @ q.T
    np.testing.assert_allclose(fit_by_regression(plain, shown), q, atol=1e-10)
    noisy = plain + rng.normal(size=plain.shape)
    assert relative_error(fit_by_regression(noisy, shown), q) < 0.1


def test_regression_finds_nothing_if_every_step_has_its_own_map() -> None:
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(2000, C))
    shown = np.stack([rotation(rng) @ row for row in plain])
    assert relative_error(fit_by_regression(plain, shown), rotation(rng)) > 0.7


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_the_secret_opens_a_frame_and_another_one_does_not(seed: int) -> None:
    truth = np.random.default_rng(seed).normal(size=LAYOUT.size)
    secret = BlindingSecret.known_to_all(0)
    sent = blinded(truth, LAYOUT, key=key(), secret=secret)
    np.testing.assert_allclose(opened(sent, LAYOUT, key=key(), secret=secret), truth, atol=1e-12)
    other = BlindingSecret.known_to_all(1)
    assert relative_error(opened(sent, LAYOUT, key=key(), secret=other), truth) > 0.5


def test_without_a_translation_the_longer_one_is_always_named() -> None:
    directions = np.random.default_rng(0).normal(size=(40, C))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert longer_one_found(2 * directions, directions, steps=1) == 1.0
    assert longer_one_found(directions, directions, steps=4) == 0.5


@pytest.mark.parametrize(("sites", "exact"), [(2, True), (3, False), (5, False)])
def test_a_cotangent_gives_the_peer_away_if_it_is_the_only_one(sites: int, exact: bool) -> None:
    frames = np.abs(np.random.default_rng(0).normal(size=(sites, LAYOUT.size)))
    terms = cross_site_terms(LAYOUT, frames, np.ones((sites, 1), dtype=bool), eps=1e-12)
    guess = peer_by_inversion(frames[0], terms.cotangents[0])
    error = min(relative_error(guess, peer) for peer in frames[1:])
    assert (error < 1e-10) if exact else (error > 0.3)

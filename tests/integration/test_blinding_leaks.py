"""What blinding, and cotangents, do and do not give away: each attack run, with its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fdfed.exchange import BlindingSecret, StepKey, TapLayout
from fdfed.exchange.isometry import Isometry, geometry
from fdfed_server.terms import cross_site_terms

C = 64
LAYOUT = TapLayout(("tap",), (C,))
Array = NDArray[np.float64]


def sites_of(count: int, *, seed: int = 0) -> Array:
    """`(S, 2 C)`: prototypes as after a normalisation layer and ReLU, F and B apart."""
    return np.abs(np.random.default_rng(seed).normal(size=(count, LAYOUT.size)))


def blinded(vector: Array, *, step: int, secret: int = 0) -> Array:
    shape = geometry(LAYOUT)
    key = StepKey("0" * 16, 1, 1, step)
    stream = BlindingSecret.known_to_all(secret).stream(key, shape.stream_bytes)
    return Isometry(shape, stream).blind(vector)


def cotangents_of(sites: Array) -> Array:
    valid = np.ones((len(sites), 1), dtype=bool)
    return cross_site_terms(LAYOUT, sites, valid, eps=1e-12).cotangents


def peer_by_inversion(own: Array, g: Array) -> Array:
    """The peer from one's own prototypes and cotangents: z = (F_s - B_t, F_t - B_s)
    has ∂L/∂F_s = -2 a / |z|² and ∂L/∂B_s = 2 b / |z|², an inversion, which is its own inverse."""
    swapped = np.concatenate([g[:C], -g[C:]])
    z = -2 * swapped / (swapped @ swapped)
    a, b = z[:C], z[C:]
    return np.concatenate([b + own[C:], own[:C] - a])


def relative(got: Array, expected: Array) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def test_with_two_sites_a_cotangent_gives_the_peers_prototypes_away_exactly() -> None:
    sites = sites_of(2)
    guess = peer_by_inversion(sites[0], cotangents_of(sites)[0])
    assert relative(guess, sites[1]) < 1e-10


@pytest.mark.parametrize("count", [3, 5])
def test_with_more_sites_the_same_inversion_gives_no_peer(count: int) -> None:
    sites = sites_of(count)
    guess = peer_by_inversion(sites[0], cotangents_of(sites)[0])
    assert min(relative(guess, peer) for peer in sites[1:]) > 0.3


def procrustes(plain: Array, seen: Array) -> tuple[Array, Array]:
    """The orthogonal map and translation that best take `plain` (m, C) to `seen` (Schönemann
    1966, doi:10.1007/BF02289451)."""
    centre, target = plain.mean(0), seen.mean(0)
    u, _, vt = np.linalg.svd((seen - target).T @ (plain - centre))
    q = u @ vt
    return q, target - q @ centre


def attack(known_steps: list[int], *, target_step: int) -> float:
    """The error of a prototype that is unblinded by a map fitted to known pairs: an insider gave
    the coordinator one site's two prototypes at each of the known steps."""
    plain, seen = [], []
    for number, step in enumerate(known_steps):
        vector = sites_of(1, seed=100 + number)[0]
        plain += [vector[:C], vector[C:]]
        sent = blinded(vector, step=step)
        seen += [sent[:C], sent[C:]]
    q, t = procrustes(np.array(plain), np.array(seen))
    secret = sites_of(1, seed=7)[0]
    guess = (blinded(secret, step=target_step)[:C] - t) @ q
    return relative(guess, secret[:C])


def test_one_fixed_map_would_fall_to_as_many_known_pairs_as_channels_and_one() -> None:
    # 33 frames of two points each: 66 pairs, where C + 1 = 65 in general position are enough.
    assert attack([0] * 33, target_step=0) < 1e-9
    assert attack([0] * 8, target_step=0) > 0.3


def test_a_fresh_map_every_step_leaves_nothing_to_fit() -> None:
    assert attack(list(range(1, 200)), target_step=0) > 0.5


def test_the_coordinator_does_learn_every_distance_of_a_step() -> None:
    one, two = sites_of(2)
    sent = blinded(one, step=0), blinded(two, step=0)
    for first, second in ((0, 1), (0, 0)):
        gap = np.linalg.norm(sent[first][:C] - sent[second][C:])
        plain = (one, two)[first][:C] - (one, two)[second][C:]
        assert gap == pytest.approx(np.linalg.norm(plain), rel=1e-12)


def test_a_site_that_conspires_opens_every_sites_prototypes_at_once() -> None:
    shape, key = geometry(LAYOUT), StepKey("0" * 16, 1, 1, 0)
    stream = BlindingSecret.known_to_all(0).stream(key, shape.stream_bytes)
    isometry = Isometry(shape, stream)
    victim: Any = sites_of(1)[0]
    t = isometry.blind(np.zeros(LAYOUT.size))
    np.testing.assert_allclose(isometry.unblind(isometry.blind(victim) - t), victim, atol=1e-12)


def test_the_length_of_what_is_sent_says_little_about_the_length_of_what_is_hidden() -> None:
    # Twice the prototype, hardly another distribution of lengths: t has a random scale.
    small = sites_of(1)[0]
    lengths = np.array(
        [
            [np.linalg.norm(blinded(scale * small, step=step)[:C]) for step in range(400)]
            for scale in (1.0, 2.0)
        ]
    )
    # How often the longer one looks longer; 0.5 is chance, 1.0 a certain reading.
    wins = (lengths[1][:, None] > lengths[0][None]).mean()
    assert 0.5 < wins < 0.7

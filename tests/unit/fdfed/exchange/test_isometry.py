import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.errors import InvalidInput
from fdfed.exchange import BlindingSecret, StepKey, TapLayout, padded_layout
from fdfed.exchange.isometry import Isometry, geometry

KEY = StepKey("0" * 16, 3, 1, 5)
WIDTHS = st.lists(st.integers(1, 130), min_size=1, max_size=5)


def layout_of(widths: list[int]) -> TapLayout:
    return TapLayout(tuple(f"tap{i}" for i in range(len(widths))), tuple(widths))


def isometry_of(layout: TapLayout, *, seed: int = 0, step: int = 0, **kind: bool) -> Isometry:
    shape, key = geometry(layout), StepKey("0" * 16, 3, 1, step)
    stream = BlindingSecret.known_to_all(seed).stream(key, shape.stream_bytes)
    return Isometry(shape, stream, **kind)


def test_a_width_of_two_is_turned_as_the_equation_says_by_hand() -> None:
    layout = layout_of([2])
    shape = geometry(layout)
    # Signs 6 bits: D₁ = (+, -), D₂ = (+, +), D₃ = (-, +); t: three words of zero, so r = 1 and
    # each entry is √3 (0 - 1) = -√3.
    stream = bytes([0b01001000]) + bytes(12)
    assert shape.stream_bytes == len(stream)
    sent = Isometry(shape, stream).blind(np.array([1.0, 2.0, 0.0, 0.0]))
    # D₁p = (1, -2); H = (-1, 3); D₂: the same; H = (2, -4); D₃ = (-2, -4); H = (-6, 2); / 2√2.
    root = 2 * np.sqrt(2.0)
    expected = np.array([-6 / root, 2 / root, 0, 0]) - np.sqrt(3.0)
    np.testing.assert_allclose(sent, expected, rtol=1e-15)


@given(widths=WIDTHS, seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_distances_between_all_prototypes_of_all_sites_are_unchanged(
    widths: list[int], seed: int
) -> None:
    layout = layout_of(widths)
    isometry = isometry_of(layout, seed=seed)
    sites = np.random.default_rng(seed).normal(size=(3, layout.size))
    sent = np.stack([isometry.blind(site) for site in sites])
    plain, blind = layout.split(sites), padded_layout(layout).split(sent)
    for tap in layout.names:
        points = np.concatenate([part[tap] for part in plain])
        moved = np.concatenate([part[tap] for part in blind])
        np.testing.assert_allclose(distances(moved), distances(points), rtol=1e-12, atol=1e-12)


def distances(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.square(points[:, None] - points[None]).sum(-1)


@given(widths=WIDTHS, seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_the_way_back_undoes_the_turn_and_knows_no_translation(
    widths: list[int], seed: int
) -> None:
    layout = layout_of(widths)
    isometry = isometry_of(layout, seed=seed)
    one, two = np.random.default_rng(seed).normal(size=(2, layout.size))
    back = isometry.unblind(isometry.blind(one) - isometry.blind(two))
    expected = np.zeros(padded_layout(layout).size)
    expected[geometry(layout).places] = one - two
    np.testing.assert_allclose(back, expected, atol=1e-12)


def test_widths_that_are_no_power_of_two_are_sent_at_the_next_one() -> None:
    assert padded_layout(layout_of([1, 3, 64, 96])).channels == (1, 4, 64, 128)


def test_one_coordinate_is_spread_over_all_of_them() -> None:
    layout = layout_of([256])
    p = np.zeros(layout.size)
    p[7] = 1.0
    turned = isometry_of(layout).blind(p) - isometry_of(layout).blind(np.zeros(layout.size))
    # A uniform unit vector in 256 dimensions has entries of about 1/16, none above about 4/16.
    assert np.abs(turned[:256]).max() < 5 / 16
    assert np.count_nonzero(np.abs(turned[:256]) > 1e-3) > 200


def test_two_steps_share_neither_turn_nor_translation() -> None:
    layout = layout_of([64])
    p = np.random.default_rng(0).normal(size=layout.size)
    first, second = (isometry_of(layout, step=step).blind(p) for step in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.4


def test_for_unit_vectors_the_translation_is_of_their_length() -> None:
    layout = layout_of([256])
    lengths = [
        np.linalg.norm(isometry_of(layout, step=i, unit_length=True).blind(np.zeros(512))[:256])
        for i in range(50)
    ]
    assert 0.9 < min(lengths) < max(lengths) < 8.8


def test_fp32_keeps_distances_to_a_millionth_behind_the_largest_translation() -> None:
    layout = layout_of([512])
    sites = np.random.default_rng(0).uniform(0, 1, size=(2, layout.size))
    worst = 0.0
    for step in range(30):
        isometry = isometry_of(layout, step=step)
        sent = np.stack([isometry.blind(site).astype(np.float32) for site in sites]).astype(float)
        got, expected = np.square(sent[0] - sent[1]).sum(), np.square(sites[0] - sites[1]).sum()
        worst = max(worst, abs(got / expected - 1))
    assert worst < 1e-6


@pytest.mark.bad_input
def test_a_wrong_number_of_random_bytes_is_refused() -> None:
    with pytest.raises(InvalidInput, match="random bytes"):
        Isometry(geometry(layout_of([4])), bytes(3))


SCRIPT = """
import hashlib, sys
import numpy as np
from fdfed.exchange import BlindingSecret, StepKey, TapLayout
from fdfed.exchange.isometry import Isometry, geometry
layout = TapLayout(("a", "b", "c"), (1024, 96, 64))
shape = geometry(layout)
stream = BlindingSecret.known_to_all(7).stream(StepKey("0" * 16, 3, 1, 5), shape.stream_bytes)
p = np.random.default_rng(1).normal(size=layout.size)
sys.stdout.buffer.write(Isometry(shape, stream).blind(p).tobytes())
"""


def test_processes_with_other_thread_counts_make_the_same_isometry() -> None:
    outputs = []
    for threads in ("1", "4"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, threads)
        outputs.append(
            subprocess.run(
                [sys.executable, "-c", SCRIPT], env=environment, check=True, capture_output=True
            ).stdout
        )
    one, four = (np.frombuffer(output) for output in outputs)
    np.testing.assert_allclose(one, four, rtol=0, atol=1e-12)

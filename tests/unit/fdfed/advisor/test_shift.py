"""How far two sites lie apart, and what a site tells of itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fdfed.advisor import (
    SiteSummary,
    TapSummary,
    load_summary,
    shift_between,
    summarise,
    write_summary,
)
from fdfed.advisor.shift import mean_shift, shifts_of
from fdfed.data import open_site, write_phantoms
from fdfed.errors import InvalidInput
from fdfed.networks import create_network

with torch.random.fork_rng():
    torch.manual_seed(0)
    NETWORK = create_network("unet", in_channels=3, width=4)


def tap(
    foreground: Sequence[float],
    background: Sequence[float],
    *,
    scatter: float = 4.0,
    patients: int = 8,
) -> TapSummary:
    return TapSummary(
        patients=patients,
        valid=1.0,
        foreground=tuple(foreground),
        background=tuple(background),
        scatter=scatter,
    )


def test_the_shift_is_the_equation_worked_by_hand() -> None:
    # |ΔF|² = 9 and |ΔB|² = 1; chance 4/8 + 4/8 = 1; the unit is 4: √((10 - 1) / 4) = 1.5.
    found = shift_between(tap([0, 0], [0, 0]), tap([3, 0], [0, 1]))
    assert found.size == pytest.approx(1.5)
    assert found.chance == pytest.approx(0.5)


def test_what_chance_gives_is_no_shift() -> None:
    # |ΔF|² = 0.5 is less than the 1 that sites of one distribution would show.
    assert shift_between(tap([0, 0], [0, 0]), tap([0.5**0.5, 0], [0, 0])).size == 0


@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.01, 100),
    channels=st.integers(2, 6),
)
def test_neither_the_scale_nor_a_rotation_of_the_features_changes_the_shift(
    seed: int, scale: float, channels: int
) -> None:
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(channels, channels)))
    first, second = rng.normal(size=(2, 2, channels)) * 3
    before = shift_between(tap(*first), tap(*second))
    moved = [tap(*(scale * vectors @ turn), scatter=4.0 * scale**2) for vectors in (first, second)]
    assert shift_between(*moved).size == pytest.approx(before.size, rel=1e-6, abs=1e-6)


def test_sites_of_one_distribution_show_no_shift_on_average() -> None:
    rng = np.random.default_rng(0)
    squares = []
    for _ in range(400):
        taps = []
        for patients in (5, 12):
            rows = rng.normal(size=(patients, 2, 3))
            means, scatter = rows.mean(0), float(rows.var(0, ddof=1).sum())
            taps.append(tap(*means, scatter=scatter, patients=patients))
        distance = sum(
            np.square(np.subtract(a, b)).sum()
            for a, b in (
                (taps[0].foreground, taps[1].foreground),
                (taps[0].background, taps[1].background),
            )
        )
        squares.append(distance - taps[0].scatter / 5 - taps[1].scatter / 12)
    # Six variances of 1 each: the raw distance would be 6 (1/5 + 1/12) = 1.7 on average.
    assert abs(np.mean(squares)) < 0.1


def test_the_mean_over_taps_is_not_ruled_by_the_largest() -> None:
    shift = shift_between(tap([0, 0], [0, 0]), tap([3, 0], [0, 1]))
    assert mean_shift({"Enc1": shift, "Bot": shift}) == pytest.approx(math.log(2.5))


@pytest.mark.bad_input
def test_taps_of_different_networks_and_sites_without_scatter_are_refused() -> None:
    with pytest.raises(InvalidInput, match="summarise both sites under one network"):
        shift_between(tap([0], [0]), tap([0, 0], [0, 0]))
    with pytest.raises(InvalidInput, match="all patients are alike"):
        shift_between(tap([0], [0], scatter=0), tap([1], [0], scatter=0))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two draws of one laboratory, another laboratory, and ultrasound."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder / "more", "tnbc", images=24, size=32, seed=1)
    (folder / "more" / "tnbc").rename(folder / "again")
    for site in ("tnbc", "ad", "busbra"):
        write_phantoms(folder, site, images=24, size=32)
    return folder


def summary_of(folder: Path, site: str, *, darker: float = 0.0) -> SiteSummary:
    images = open_site(site, folder, size=32, in_channels=3, seed=0, batch_size=8)

    def batches() -> Iterator[tuple[Tensor, Tensor, tuple[str, ...]]]:
        for image, mask, names in images.evaluation_batches("train"):
            yield image * (1 - darker), mask, names

    return summarise(
        NETWORK, batches(), site=site, patients=images.patients_of("train"), phantoms=True
    )


def test_a_larger_known_shift_of_the_images_is_a_larger_shift(phantoms: Path) -> None:
    own = summary_of(phantoms, "tnbc")
    found = [
        mean_shift(shifts_of(own, summary_of(phantoms, "tnbc", darker=share)))
        for share in (0.0, 0.2, 0.4, 0.6)
    ]
    assert found[0] == 0
    assert found == sorted(found)
    assert found[1] < found[3]


def test_patients_of_one_laboratory_are_near_and_those_of_others_far(phantoms: Path) -> None:
    own = summary_of(phantoms, "tnbc")
    again, ad, ultrasound = (
        mean_shift(shifts_of(own, summary_of(phantoms, site))) for site in ("again", "ad", "busbra")
    )
    # Which of the two is farther, a network that has learned nothing cannot tell.
    assert again < 0.25 * min(ad, ultrasound)


def test_a_summary_tells_means_over_patients_and_nothing_of_an_image(
    phantoms: Path, tmp_path: Path
) -> None:
    summary = summary_of(phantoms, "tnbc")
    write_summary(tmp_path / "tnbc.json", summary)
    assert load_summary(tmp_path / "tnbc.json") == summary
    text = (tmp_path / "tnbc.json").read_text()
    assert "phantom_" not in text, "no name of a patient or a file"
    assert summary.taps["Enc1"].patients >= 3


def test_a_site_of_too_few_patients_has_no_summary() -> None:
    image, mask = torch.rand(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
    mask[:, :, :9, :9] = 1
    batches = [(image, mask, ("a", "b"))]
    with pytest.raises(InvalidInput, match="no tap with 3 patients"):
        summarise(NETWORK, batches, site="x", patients={"a": "p", "b": "q"}, phantoms=False)


def test_summaries_under_different_models_are_not_compared(phantoms: Path) -> None:
    own = summary_of(phantoms, "tnbc")
    other = own.model_copy(update={"site": "x", "model": "0" * 64})
    with pytest.raises(InvalidInput, match="give both sites one model file"):
        shifts_of(own, other)


def test_a_file_that_is_no_summary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_summary(tmp_path / "none.json")
    (tmp_path / "odd.json").write_text('{"site": "tnbc"}')
    with pytest.raises(InvalidInput, match="cannot be used"):
        load_summary(tmp_path / "odd.json")

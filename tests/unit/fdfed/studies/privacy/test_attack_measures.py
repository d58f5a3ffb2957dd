"""The measures of reconstruction and membership agree with hand-worked values and with oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics.rocauc import compute_roc_auc
from scipy.stats import mannwhitneyu, pearsonr

from fdfed.studies.privacy.ranking import auc, bootstrap_interval, tpr_at_fpr
from fdfed.studies.privacy.similarity import correlation, gradient_similarity, psnr, ssim


def test_auc_is_worked_by_hand() -> None:
    # Pairs (3, 1), (3, 2), (2, 1) are won, (2, 2) is tied: 3.5 of 4.
    assert auc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == 0.875


@given(
    members=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    others=st.lists(st.integers(0, 5), min_size=1, max_size=12),
)
def test_auc_is_that_of_scipy_and_of_monai(members: list[int], others: list[int]) -> None:
    got = auc(np.array(members), np.array(others))
    wins = mannwhitneyu(members, others).statistic
    assert got == pytest.approx(wins / (len(members) * len(others)))
    scores = torch.tensor([*members, *others], dtype=torch.float64)
    labels = torch.tensor([1] * len(members) + [0] * len(others))
    assert got == pytest.approx(compute_roc_auc(scores, labels))


def test_the_true_positive_rate_allows_so_many_false_positives_and_no_more() -> None:
    others = np.arange(100.0)
    members = np.array([99.5, 98.5, 97.5, 0.0])
    # One of a hundred others may pass: the threshold is 98.
    assert tpr_at_fpr(members, others, fpr=0.01) == 0.5
    # Of fifty, none may.
    assert tpr_at_fpr(np.array([49.5, 48.5]), np.arange(50.0), fpr=0.01) == 0.5


def test_an_interval_draws_whole_patients() -> None:
    members, others = np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.5, 0.5])
    names = ["a", "a", "b", "b"]
    low, high = bootstrap_interval(
        auc,
        members,
        others,
        member_patients=names,
        other_patients=["c", "d"],
        rng=np.random.default_rng(0),
        draws=200,
    )
    # Two patients, drawn twice: both the same one in half of the draws, which is 0 or 1.
    assert (low, high) == (0.0, 1.0)
    single = bootstrap_interval(
        auc,
        members,
        others,
        member_patients=["a"] * 4,
        other_patients=["c"] * 2,
        rng=np.random.default_rng(0),
        draws=50,
    )
    assert single == (0.5, 0.5)


def test_psnr_is_worked_by_hand() -> None:
    truth = torch.full((2, 1, 16, 16), 0.5)
    guess = torch.stack((torch.full((1, 16, 16), 0.6), torch.full((1, 16, 16), 0.51)))
    # Mean squared errors 1e-2 and 1e-4.
    torch.testing.assert_close(psnr(guess, truth), torch.tensor([20.0, 40.0]), atol=1e-2, rtol=0)


@given(seed=st.integers(0, 2**32 - 1))
def test_a_picture_is_like_itself_and_less_like_another(seed: int) -> None:
    first, second = torch.rand(2, 3, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    for measure in (ssim, gradient_similarity, correlation):
        torch.testing.assert_close(measure(first, first), torch.ones(3))
        assert (measure(first, second) < 0.99).all()


def test_gradient_similarity_of_an_edge_and_a_blank_is_worked_by_hand() -> None:
    edge = torch.zeros(1, 1, 16, 16)
    edge[..., 8:] = 1
    # Prewitt over three rows: |∇| = 1 in the two columns beside the edge, else 0. There
    # GMS = c / (1 + c), elsewhere 1.
    c = 170 / 255**2
    expected = (14 + 2 * c / (1 + c)) / 16
    assert gradient_similarity(edge, torch.zeros_like(edge)).item() == pytest.approx(expected)


def test_correlation_is_that_of_scipy_and_ignores_brightness_and_contrast() -> None:
    first, second = torch.rand(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    expected = pearsonr(first.flatten(), second.flatten()).statistic
    assert correlation(first, second).item() == pytest.approx(expected)
    assert correlation(0.3 * first + 0.2, first).item() == pytest.approx(1.0)
    assert correlation(torch.zeros_like(first), first).item() == 0.0

"""L_exch and its cotangents: Eq. 4 by hand, symmetries, the closed form against autograd."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fdfed.errors import InvalidInput
from fdfed.losses import Bound, Form, exchange_cotangents, exchange_loss

FORMS: tuple[Form, ...] = ("paper", "ratio", "gap")
BOUNDS: tuple[Bound, ...] = ("none", "normalise", "cap")


def _sites(sites: int, *, channels: int = 6, seed: int = 0, spread: float = 1.0) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [
        spread * torch.randn(sites, channels, generator=rng, dtype=torch.float64) for _ in range(2)
    ]


def _all(sites: int) -> Tensor:
    return torch.ones(sites, dtype=torch.bool)


def _by_pairs(F: Tensor, B: Tensor, valid: Tensor, form: Form, eps: float) -> Tensor:
    """The definition, pair by pair."""
    losses = []
    for s, t in combinations(range(len(F)), 2):
        if not (valid[s] and valid[t]):
            continue
        D = (F[s] - B[t]).square().sum() + (F[t] - B[s]).square().sum()
        if form == "paper":
            losses.append(-(D + eps).log())
        elif form == "ratio":
            scatter = (F[s] - F[t]).square().sum() + (B[s] - B[t]).square().sum()
            losses.append((1 + scatter).log() - (D + eps).log())
        else:
            within = (F[s] - B[s]).square().sum() + (F[t] - B[t]).square().sum()
            losses.append(((D + eps).log() - (within + eps).log()).square())
    return torch.stack(losses).mean()


def test_exchange_loss_matches_eq_4_worked_by_hand() -> None:
    # |F1 - B2|² = |(0, 2)|² = 4 and |F2 - B1|² = |(3, 0)|² = 9: L = -log 13.
    F = torch.tensor([[1.0, 2.0], [3.0, 1.0]], dtype=torch.float64)
    B = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    assert exchange_loss(F, B, _all(2), eps=0.0).item() == pytest.approx(-math.log(13), abs=1e-12)
    # Cotangents: -2 (F1 - B2) / 13 and -2 (F2 - B1) / 13, and their negatives at B2 and B1.
    per_site, dF, dB = exchange_cotangents(F, B, _all(2), eps=0.0)
    torch.testing.assert_close(dF, torch.tensor([[0, -4], [-6, 0]], dtype=torch.float64) / 13)
    torch.testing.assert_close(dB, torch.tensor([[6, 0], [0, 4]], dtype=torch.float64) / 13)
    torch.testing.assert_close(per_site, torch.full((2,), -math.log(13), dtype=torch.float64))


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 2**31), sites=st.integers(2, 6), eps=st.sampled_from([1e-6, 0.1]))
@settings(deadline=None, max_examples=15)
def test_exchange_loss_is_the_mean_over_unordered_valid_pairs(
    form: Form, seed: int, sites: int, eps: float
) -> None:
    F, B = _sites(sites, seed=seed)
    valid = _all(sites)
    if sites > 2:
        valid[seed % sites] = False
    expected = _by_pairs(F, B, valid, form, eps)
    torch.testing.assert_close(
        exchange_loss(F, B, valid, form=form, eps=eps), expected, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("sites", [2, 3, 5, 50])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bound", BOUNDS)
def test_the_closed_form_is_autograds_gradient(sites: int, form: Form, bound: Bound) -> None:
    # Sites spread over several class distances, and some invalid, so that `cap` bites on some.
    F, B = (p.requires_grad_() for p in _sites(sites, seed=sites, spread=0.9))
    valid = _all(sites)
    valid[2::4] = False
    loss = exchange_loss(F, B, valid, form=form, bound=bound)
    expected = torch.autograd.grad(loss, (F, B))
    _, dF, dB = exchange_cotangents(F.detach(), B.detach(), valid, form=form, bound=bound)
    torch.testing.assert_close(dF, expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dB, expected[1], rtol=1e-12, atol=1e-12)
    assert dF[~valid].abs().sum() == 0
    assert dB[~valid].abs().sum() == 0


def test_site_terms_are_means_over_valid_peers_and_average_to_the_loss() -> None:
    F, B = _sites(4, seed=5)
    valid = torch.tensor([True, True, False, True])
    per_site, _, _ = exchange_cotangents(F, B, valid)
    for s in (0, 1, 3):
        peers = [t for t in (0, 1, 3) if t != s]
        pairs = [_by_pairs(F[[s, t]], B[[s, t]], _all(2), "paper", 1e-6) for t in peers]
        torch.testing.assert_close(per_site[s], torch.stack(pairs).mean())
    assert per_site[2] == 0
    torch.testing.assert_close(per_site[valid].mean(), exchange_loss(F, B, valid))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("known", [0, 1])
def test_fewer_than_two_valid_sites_give_zeros_in_the_graph(form: Form, known: int) -> None:
    F, B = (p.requires_grad_() for p in _sites(3))
    valid = torch.zeros(3, dtype=torch.bool)
    valid[:known] = True
    loss = exchange_loss(F, B, valid, form=form)
    assert loss.item() == 0.0
    for gradient in torch.autograd.grad(loss, (F, B)):
        assert gradient.abs().sum() == 0
    for part in exchange_cotangents(F.detach(), B.detach(), valid, form=form):
        assert part.abs().sum() == 0


@pytest.mark.parametrize("form", FORMS)
def test_what_an_invalid_site_holds_does_not_matter(form: Form) -> None:
    F, B = _sites(3, seed=9)
    valid = torch.tensor([True, False, True])
    expected = [exchange_loss(F, B, valid, form=form), *exchange_cotangents(F, B, valid, form=form)]
    F[1], B[1] = torch.nan, torch.inf
    got = [exchange_loss(F, B, valid, form=form), *exchange_cotangents(F, B, valid, form=form)]
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)


@given(seed=st.integers(0, 2**31), sites=st.integers(2, 7))
@settings(deadline=None, max_examples=25)
def test_the_discrepancy_across_sites_is_that_within_plus_twice_the_common_shift(
    seed: int, sites: int
) -> None:
    """D_st = D_ss + D_tt + 2 <F_s - F_t, B_s - B_t>: Eq. 4 rewards a shift of a whole site."""
    F, B = _sites(sites, seed=seed)
    for s, t in combinations(range(sites), 2):
        pair = torch.tensor([s, t])
        D = (-exchange_loss(F[pair], B[pair], _all(2), eps=0.0)).exp()
        within = (F[s] - B[s]).square().sum() + (F[t] - B[t]).square().sum()
        identity = within + 2 * (F[s] - F[t]) @ (B[s] - B[t])
        torch.testing.assert_close(D, identity, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 2**31), sites=st.integers(2, 8))
@settings(deadline=None, max_examples=15)
def test_relabelling_the_sites_changes_neither_loss_nor_cotangents(
    form: Form, seed: int, sites: int
) -> None:
    F, B = _sites(sites, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(sites, generator=rng)
    valid = torch.rand(sites, generator=rng) > 0.2
    torch.testing.assert_close(
        exchange_loss(F[order], B[order], valid[order], form=form),
        exchange_loss(F, B, valid, form=form),
    )
    for got, want in zip(
        exchange_cotangents(F[order], B[order], valid[order], form=form),
        exchange_cotangents(F, B, valid, form=form),
        strict=True,
    ):
        torch.testing.assert_close(got, want[order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bound", ["none", "cap"])
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_a_rotation_and_a_translation_of_all_sites_only_rotate_the_cotangents(
    form: Form, bound: Bound, seed: int
) -> None:
    F, B = _sites(4, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(6, 6, generator=rng, dtype=torch.float64))
    t = 10 * torch.randn(6, generator=rng, dtype=torch.float64)
    blind = [F @ Q.T + t, B @ Q.T + t]
    torch.testing.assert_close(
        exchange_loss(*blind, _all(4), form=form, bound=bound),
        exchange_loss(F, B, _all(4), form=form, bound=bound),
    )
    _, dF, dB = exchange_cotangents(F, B, _all(4), form=form, bound=bound)
    _, rF, rB = exchange_cotangents(*blind, _all(4), form=form, bound=bound)
    torch.testing.assert_close(rF @ Q, dF, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(rB @ Q, dB, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 2**31), sites=st.integers(2, 9))
@settings(deadline=None, max_examples=10)
def test_cotangents_of_all_sites_and_classes_sum_to_zero(form: Form, seed: int, sites: int) -> None:
    F, B = _sites(sites, seed=seed)
    _, dF, dB = exchange_cotangents(F, B, _all(sites), form=form)
    torch.testing.assert_close(
        (dF + dB).sum(0), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-11
    )


def test_the_squared_cotangents_of_a_pair_sum_to_8_over_d() -> None:
    F, B = _sites(2, seed=3)
    _, dF, dB = exchange_cotangents(F, B, _all(2), eps=0.0)
    D = (-exchange_loss(F, B, _all(2), eps=0.0)).exp()
    torch.testing.assert_close(dF.square().sum() + dB.square().sum(), 8 / D)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bound", BOUNDS)
def test_everything_is_finite_where_all_prototypes_coincide(
    dtype: torch.dtype, form: Form, bound: Bound
) -> None:
    F = torch.full((3, 4), 0.7, dtype=dtype, requires_grad=True)
    B = torch.full((3, 4), 0.7, dtype=dtype, requires_grad=True)
    loss = exchange_loss(F, B, _all(3), form=form, bound=bound)
    assert loss.item() == pytest.approx(0.0 if form == "gap" else -math.log(1e-6))
    parts = [
        *torch.autograd.grad(loss, (F, B)),
        *exchange_cotangents(F.detach(), B.detach(), _all(3), form=form, bound=bound),
    ]
    for part in parts:
        assert part.isfinite().all()
        assert part.dtype == dtype


@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 100))
@settings(deadline=None, max_examples=25)
def test_the_bounded_loss_stays_above_minus_log_8(seed: int, scale: float) -> None:
    F, B = _sites(3, seed=seed, spread=scale)
    for bound in ("normalise", "cap"):
        loss = exchange_loss(F, B, _all(3), bound=bound)  # type: ignore[arg-type]
        assert loss.item() >= -math.log(8 + 1e-6) - 1e-12


def test_scaling_all_features_lowers_the_literal_loss_and_leaves_the_normalised_one() -> None:
    F, B = _sites(3, seed=2)
    plain, scaled = (exchange_loss(k * F, k * B, _all(3), eps=0.0) for k in (1, 10))
    assert (plain - scaled).item() == pytest.approx(2 * math.log(10))
    torch.testing.assert_close(
        exchange_loss(10 * F, 10 * B, _all(3), bound="normalise"),
        exchange_loss(F, B, _all(3), bound="normalise"),
    )


def test_a_growing_shift_of_a_site_is_rewarded_by_eq_4_and_penalised_by_ratio() -> None:
    # Site 2 is site 1 moved by k·δ, so D = 2 |F - B|² + 2 k² |δ|² and the scatter is 2 k² |δ|².
    # With 2 |F - B|² = 39.25 and 2 |δ|² = 8.7: paper -log(39.25 + 8.7 k²), and ratio adds
    # log(1 + 8.7 k²).
    F = torch.tensor([[math.sqrt(39.25 / 2), 0.0]], dtype=torch.float64)
    B = torch.zeros(1, 2, dtype=torch.float64)
    angle = torch.tensor([math.cos(0.6), math.sin(0.6)], dtype=torch.float64)
    delta = math.sqrt(8.7 / 2) * angle
    rows = []
    for k in (0, 1, 2, 4, 8):
        pair = (torch.cat((F, F + k * delta)), torch.cat((B, B + k * delta)), _all(2))
        rows.append([exchange_loss(*pair, form=form).item() for form in ("paper", "ratio")])
    paper, ratio = zip(*rows, strict=True)
    assert paper == pytest.approx((-3.67, -3.87, -4.30, -5.18, -6.39), abs=0.01)
    assert ratio == pytest.approx((-3.67, -1.60, -0.73, -0.24, -0.07), abs=0.01)


def test_gap_is_zero_without_a_shift_and_where_class_shifts_are_orthogonal() -> None:
    F = torch.tensor([[2.0, 0.0, 0.0], [2.0, 1.0, 0.0]], dtype=torch.float64)
    B = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    assert exchange_loss(F, B, _all(2), form="gap").item() == pytest.approx(0.0, abs=1e-20)
    # A shift δ = (0, 1, 0) of a copy: D_st = 4 + 4 + 2 |δ|² = 10 against 8 within.
    F[1], B[1] = F[0] + F.new_tensor([0, 1, 0]), B[0] + F.new_tensor([0, 1, 0])
    loss = exchange_loss(F, B, _all(2), form="gap", eps=0.0)
    assert loss.item() == pytest.approx(math.log(10 / 8) ** 2)


@pytest.mark.parametrize("form", FORMS)
def test_taps_stacked_in_front_give_what_each_gives_alone(form: Form) -> None:
    F, B = (torch.stack(p) for p in zip(_sites(3, seed=1), _sites(3, seed=2), strict=True))
    valid = torch.tensor([[True, True, True], [True, False, True]])
    losses = exchange_loss(F, B, valid, form=form)
    parts = exchange_cotangents(F, B, valid, form=form)
    assert losses.shape == (2,)
    for tap in range(2):
        alone = (F[tap], B[tap], valid[tap])
        torch.testing.assert_close(losses[tap], exchange_loss(*alone, form=form))
        for got, want in zip(parts, exchange_cotangents(*alone, form=form), strict=True):
            torch.testing.assert_close(got[tap], want)


def test_two_sites_alike_keep_their_digits_beside_a_third_far_away() -> None:
    """Squared lengths of 1e7 cancel to distances of 1e-2: fp32 products would leave nothing."""
    rng = torch.Generator().manual_seed(4)
    F, B = (0.05 * torch.randn(3, 8, generator=rng) for _ in range(2))
    F[2], B[2] = F[2] + 2000, B[2] + 2000
    expected = _by_pairs(F.double(), B.double(), _all(3), "paper", 1e-6)
    loss = exchange_loss(F, B, _all(3))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_autocast_does_not_round_the_products() -> None:
    F, B = (p.float() for p in _sites(4))
    expected = exchange_loss(F, B, _all(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(exchange_loss(F, B, _all(4)), expected)


def test_a_thousand_sites_are_a_few_matrix_products() -> None:
    F, B = _sites(1000, channels=16)
    per_site, dF, dB = exchange_cotangents(F, B, _all(1000))
    torch.testing.assert_close(per_site.mean(), exchange_loss(F, B, _all(1000)))
    assert dF.isfinite().all()
    assert dB.isfinite().all()


@pytest.mark.bad_input
def test_shapes_that_do_not_belong_together_are_refused() -> None:
    F, B = _sites(3)
    with pytest.raises(InvalidInput, match="one row for each site"):
        exchange_loss(F, B[:2], _all(3))
    with pytest.raises(InvalidInput, match="one row for each site"):
        exchange_cotangents(F, B, _all(2))

"""The feature discrepancy loss across sites (Eq. 4), and its derivatives in closed form."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fdfed.errors import InvalidInput
from fdfed.losses.bounds import CAP_ACROSS, Bound, negative_log
from fdfed.prototypes import unit_vectors, unit_vectors_backward

Form = Literal["paper", "ratio", "gap"]


def exchange_loss(
    foreground: Float[Tensor, "*taps sites channels"],
    background: Float[Tensor, "*taps sites channels"],
    valid: Bool[Tensor, "*taps sites"],
    *,
    form: Form = "paper",
    bound: Bound = "none",
    eps: float = 1e-6,
) -> Float[Tensor, "*taps"]:
    """L_exch of each tap, the mean over all unordered pairs s, t of valid sites of

        paper:  -log(D_st + ε)
        ratio:  log(1 + |F_s - F_t|² + |B_s - B_t|²) - log(D_st + ε)
        gap:    (log(D_st + ε) - log(D_ss + D_tt + ε))²

    with D_st = |F_s - B_t|² + |F_t - B_s|² between sites and D_ss = |F_s - B_s|² within one. Where
    fewer than two sites are valid it is a zero that is connected to the graph.

    Source of `paper`: Eq. 4, whose pair of data sets are two sites here. Departures: ε inside the
    logarithm; the mean over pairs, for more than two sites; `bound`.

    `ratio` and `gap` are not in the paper. The identity

        D_st = D_ss + D_tt + 2 <F_s - F_t, B_s - B_t>

    shows why they are here: a shift δ of all features of a site adds 2 |δ|² to D_st, so Eq. 4
    *rewards* it. `ratio` sets the shift of each class over the distance of the classes, as a
    Fisher ratio does; `gap` asks that discrepancies across sites be those within sites.

    With `bound` none or cap all three need distances only: one rotation and one translation,
    applied to all prototypes of a tap, change nothing.

    Args:
        foreground: F_s, the batch-mean foreground prototype of each site.
        background: B_s.
        valid: sites that have both.
        bound: as in `fdfed.losses.bounds`. `normalise` scales these rows, whose lengths a
            translation changes: for blinded prototypes, normalise before blinding and use `none`.
        eps: ε, in the unit of squared features.

    Raises:
        InvalidInput: if the shapes do not belong together.
    """
    _check(foreground, background, valid)
    F, B = _centred(*_ready(foreground, background, valid, bound), valid)
    pairs = _pairs(valid)
    losses = _pair_losses(_distances(F, B, form), form, bound, eps)
    total = losses.where(pairs, 0).sum((-2, -1))
    mean = total / pairs.sum((-2, -1)).clamp_min(1)
    return mean.to(_result_dtype(foreground))


def shifted_exchange_loss(
    foreground: Float[Tensor, "batch channels"],
    background: Float[Tensor, "batch channels"],
    valid: Bool[Tensor, " batch"],
    *,
    shift: int = 1,
    form: Form = "paper",
    bound: Bound = "none",
    eps: float = 1e-6,
) -> Float[Tensor, ""]:
    """L_exch between images of one batch: the mean of `exchange_loss`'s terms over the pairs
    (i, i + k), counted round the m valid images of the batch, whichever site each is from.

    Source: Eq. 4 on the pairs of Algorithm 1, line 5, which shuffles the batch first; the algorithm
    itself sets F_i against B_{i+k} alone, unsquared (`published.algorithm_1_exchange`). For images
    that are in one place: between hospitals it would take the prototypes of single images.

    A zero that is connected to the graph where every image would meet itself: k a multiple of m, as
    it must be for one image. The mean over k = 1 … m - 1 is `exchange_loss` of all pairs.

    Args:
        foreground, background, valid: of each image, from `masked_prototypes`.
        shift: k; the algorithm calls it arbitrary.
        form, bound, eps: as in `exchange_loss`.

    Raises:
        InvalidInput: if the shapes do not belong together.
    """
    _check(foreground, background, valid)
    if shift % max(1, int(valid.sum())) == 0:
        return 0 * (foreground.where(valid[:, None], 0) + background.where(valid[:, None], 0)).sum()
    F, B = _ready(foreground[valid], background[valid], valid[valid], bound)
    next_F, next_B = F.roll(-shift, dims=0), B.roll(-shift, dims=0)
    own = _squared(F - B)
    distances = _Distances(
        across=_squared(F - next_B) + _squared(next_F - B),
        scatter=_squared(F - next_F) + _squared(B - next_B) if form == "ratio" else None,
        within=own + own.roll(-shift) if form == "gap" else None,
    )
    return _pair_losses(distances, form, bound, eps).mean().to(_result_dtype(foreground))


@torch.no_grad()
def exchange_cotangents(
    foreground: Float[Tensor, "*taps sites channels"],
    background: Float[Tensor, "*taps sites channels"],
    valid: Bool[Tensor, "*taps sites"],
    *,
    form: Form = "paper",
    bound: Bound = "none",
    eps: float = 1e-6,
) -> tuple[
    Float[Tensor, "*taps sites"],
    Float[Tensor, "*taps sites channels"],
    Float[Tensor, "*taps sites channels"],
]:
    """Each site's mean over its valid peers, and ∂L/∂F and ∂L/∂B of L = `exchange_loss`.

    In closed form from the matrices of squared distances. With K_st the derivative of L by
    |F_s - B_t|², and k_s its row sum,

        ∂L/∂F_s = 2 (k_s F_s - Σ_t K_st B_t),      ∂L/∂B_t = 2 (k_t B_t - Σ_s K_st F_s)

    and likewise for the other distances that `form` needs. For `paper` and P ordered pairs
    K_st = -2 / (P (D_st + ε)). The cost is a few products of `(sites, channels)` matrices.

    All rows of an invalid site are zero, and everything is where fewer than two are valid. Except
    under `normalise` the derivatives of a tap sum to zero over all sites and both classes, since
    a common translation changes nothing.

    Args:
        foreground, background, valid, form, bound, eps: as in `exchange_loss`.

    Raises:
        InvalidInput: if the shapes do not belong together.
    """
    _check(foreground, background, valid)
    F, B = _centred(*_ready(foreground, background, valid, bound), valid)
    pairs = _pairs(valid)
    distances = _distances(F, B, form)
    losses = _pair_losses(distances, form, bound, eps).where(pairs, 0)
    per_site = losses.sum(-1) / pairs.sum(-1).clamp_min(1)

    # L holds every unordered pair twice, each time divided by the number of ordered pairs.
    share = 2 / pairs.sum((-2, -1), keepdim=True).clamp_min(1).to(F.dtype)
    slopes = _pair_slopes(distances, form, bound, eps)
    K = (slopes.across * share).where(pairs, 0)
    dF, dB = _pull(K, F, B), _pull(K, B, F)
    if slopes.scatter is not None:
        A = (slopes.scatter * share).where(pairs, 0)
        dF, dB = dF + _pull(A, F, F), dB + _pull(A, B, B)
    if slopes.within is not None:
        k = (slopes.within * share).where(pairs, 0).sum(-1, keepdim=True)
        dF, dB = dF + 2 * k * (F - B), dB + 2 * k * (B - F)
    if bound == "normalise":
        raw = _ready(foreground, background, valid, "none")
        dF, dB = unit_vectors_backward(raw[0], dF), unit_vectors_backward(raw[1], dB)
    dtype = _result_dtype(foreground)
    return per_site.to(dtype), dF.to(dtype), dB.to(dtype)


class _Distances(NamedTuple):
    """Squared distances of pairs, `(*taps, S, S)` for all ordered ones; None where the form needs
    none."""

    across: Tensor
    """D_st = |F_s - B_t|² + |F_t - B_s|²."""
    scatter: Tensor | None
    """|F_s - F_t|² + |B_s - B_t|²."""
    within: Tensor | None
    """D_ss + D_tt."""


def _distances(F: Tensor, B: Tensor, form: Form) -> _Distances:
    cross = _squared_distances(F, B)
    scatter = within = None
    if form == "ratio":
        scatter = _squared_distances(F, F) + _squared_distances(B, B)
    elif form == "gap":
        own = _squared(F - B)
        within = own.unsqueeze(-1) + own.unsqueeze(-2)
    return _Distances(cross + cross.mT, scatter, within)


def _pair_losses(distances: _Distances, form: Form, bound: Bound, eps: float) -> Tensor:
    """The loss of every pair."""
    across = negative_log(distances.across, cap=_cap(bound), eps=eps)
    if distances.scatter is not None:
        return across + torch.log1p(distances.scatter)
    if distances.within is not None:
        return (across - negative_log(distances.within, cap=_cap(bound), eps=eps)).square()
    return across


def _pair_slopes(distances: _Distances, form: Form, bound: Bound, eps: float) -> _Distances:
    """The derivative of every pair's loss by each of its distances."""
    across = _negative_log_slope(distances.across, bound, eps)
    if distances.scatter is not None:
        return _Distances(across, 1 / (1 + distances.scatter), None)
    if distances.within is not None:
        cap = _cap(bound)
        gap = negative_log(distances.across, cap=cap, eps=eps) - negative_log(
            distances.within, cap=cap, eps=eps
        )
        within = _negative_log_slope(distances.within, bound, eps)
        return _Distances(2 * gap * across, None, -2 * gap * within)
    return _Distances(across, None, None)


def _negative_log_slope(squared_distance: Tensor, bound: Bound, eps: float) -> Tensor:
    slope = -1 / (squared_distance + eps)
    cap = _cap(bound)
    return slope if cap is None else slope.where(squared_distance <= cap, 0)


def _cap(bound: Bound) -> float | None:
    return CAP_ACROSS if bound == "cap" else None


def _pull(weights: Tensor, points: Tensor, others: Tensor) -> Tensor:
    """2 Σ_t w_st (p_s - q_t): the derivative of Σ w_st |p_s - q_t|² by p, for symmetric w."""
    return 2 * (weights.sum(-1, keepdim=True) * points - weights @ others)


def _squared(differences: Tensor) -> Tensor:
    return differences.square().sum(-1)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_s - y_t|² by |x|² + |y|² - 2 <x, y>: a matrix product instead of S² differences."""
    squares = x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2)
    # Rounding can leave a tiny negative number where the points are alike.
    return (squares - 2 * (x @ y.mT)).clamp_min(0)


def _pairs(valid: Tensor) -> Tensor:
    """True for ordered pairs of two different valid sites."""
    pairs = valid.unsqueeze(-1) & valid.unsqueeze(-2)
    return pairs & ~torch.eye(valid.shape[-1], dtype=torch.bool, device=valid.device)


def _ready(
    foreground: Tensor, background: Tensor, valid: Tensor, bound: Bound
) -> tuple[Tensor, Tensor]:
    """The prototypes in fp64, invalid rows zero, of length 1 if asked."""
    # The squares cancel where sites lie far apart and classes close together: fp32 would lose the
    # difference, and autocast would round the products further (it leaves fp64 alone). Apple's
    # GPUs have no fp64.
    dtype = torch.float32 if foreground.device.type == "mps" else torch.float64
    F, B = _valid_rows(foreground.to(dtype), valid), _valid_rows(background.to(dtype), valid)
    return (unit_vectors(F), unit_vectors(B)) if bound == "normalise" else (F, B)


def _centred(F: Tensor, B: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The prototypes less the mean of all valid ones; invalid rows zero.

    No distance changes, so the mean needs no gradient; but the squared lengths, from which the
    distances are computed, become as small as one translation can make them.
    """
    count = valid.sum(-1).clamp_min(1).unsqueeze(-1).unsqueeze(-1)
    mean = ((F + B).sum(-2, keepdim=True) / (2 * count)).detach()
    return _valid_rows(F - mean, valid), _valid_rows(B - mean, valid)


def _valid_rows(points: Tensor, valid: Tensor) -> Tensor:
    """The points, invalid rows zero; in the usual case, that all are valid, no copy."""
    on_cpu = valid.device.type == "cpu"  # elsewhere asking would wait for the device
    return points if on_cpu and bool(valid.all()) else points.where(valid.unsqueeze(-1), 0)


def _result_dtype(prototypes: Tensor) -> torch.dtype:
    return torch.promote_types(prototypes.dtype, torch.float32)


def _check(foreground: Tensor, background: Tensor, valid: Tensor) -> None:
    if foreground.shape != background.shape or foreground.shape[:-1] != valid.shape:
        raise InvalidInput(
            f"the exchange loss got foreground {tuple(foreground.shape)}, background "
            f"{tuple(background.shape)} and valid {tuple(valid.shape)}; they must be (*taps, "
            "sites, channels) twice and (*taps, sites). Stack one row for each site, absent ones "
            "with valid = False"
        )

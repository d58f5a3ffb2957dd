"""The cross-site terms of one step, of all sites and taps, from the sites' prototype vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fdfed.exchange import TapLayout
from fdfed.losses import exchange_cotangents

_GROUP_ELEMENTS: Final = 20_000
"""Taps are computed together while their stack holds no more elements than this. Below it, calling
the operations costs more than their arithmetic; above it, padding and fresh memory cost more."""


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """The cross-site terms of one step over S sites, in fp64."""

    pair_terms: NDArray[np.float64]
    """`(taps,)`: L_exch,l, the mean over unordered valid pairs; NaN where fewer than two are
    valid."""
    site_terms: NDArray[np.float64]
    """`(S, taps)`: the mean over each site's valid peers; NaN where it has none."""
    cotangents: NDArray[np.float64]
    """`(S, size)`: the derivative of every tap's pair term at every site's prototypes."""


@torch.inference_mode()  # nothing here is differentiated, and small operations cost less
def cross_site_terms(
    layout: TapLayout,
    vectors: NDArray[np.float64],
    valid: NDArray[np.bool_],
    *,
    form: Literal["paper", "ratio", "gap"] = "paper",
    bound: Literal["none", "normalise", "cap"] = "none",
    eps: float = 1e-6,
) -> Terms:
    """L_exch (Eq. 4) of every tap and its cotangents, in fp64.

    A tap's pair term follows from its site terms: with n valid sites each unordered pair is in
    two site terms, of weight 1/(n-1) each, hence the mean over pairs is Σ_s site_term_s / n.

    Args:
        layout: where each tap's prototypes lie.
        vectors: `(S, size)`, a row per site.
        valid: `(S, taps)`; an invalid tap of a site enters no pair.
        form, bound, eps: as in `fdfed.losses.exchange_cotangents`.
    """
    spans = [(fore, back) for _, fore, back in layout.spans()]
    site_terms = np.full(valid.shape, np.nan)
    cotangents = np.empty_like(vectors)
    for group in _groups(layout, sites=len(vectors)):
        known = valid[:, group]
        values, d_foreground, d_background = exchange_cotangents(
            _stack([vectors[:, spans[tap][0]] for tap in group]),
            _stack([vectors[:, spans[tap][1]] for tap in group]),
            torch.from_numpy(np.ascontiguousarray(known.T)),
            form=form,
            bound=bound,
            eps=eps,
        )
        # A site has a peer where it is valid and is not the only one.
        paired = known & (known.sum(0) > 1)
        site_terms[:, group] = np.where(paired, values.numpy().T, np.nan)
        for tap, dF, dB in zip(group, d_foreground.numpy(), d_background.numpy(), strict=True):
            width = layout.channels[tap]
            cotangents[:, spans[tap][0]] = dF[:, :width]
            cotangents[:, spans[tap][1]] = dB[:, :width]
    count = valid.sum(0)
    total = np.where(valid, site_terms, 0.0).sum(0)
    pair_terms = np.divide(total, count, out=np.full(layout.taps, np.nan), where=count > 1)
    return Terms(pair_terms, site_terms, cotangents)


def _groups(layout: TapLayout, *, sites: int) -> list[list[int]]:
    """Taps that are computed together: neighbours in width, padded to the widest of them."""
    groups: list[list[int]] = []
    room = 0
    for tap in sorted(range(layout.taps), key=lambda tap: -layout.channels[tap]):
        if len(groups) == 0 or len(groups[-1]) >= room:
            groups.append([])
            room = _GROUP_ELEMENTS // (sites * layout.channels[tap])
        groups[-1].append(tap)
    return groups


def _stack(prototypes: list[NDArray[np.float64]]) -> Tensor:
    """`(taps, S, C)`, filled up with zeros, which change no distance and no norm."""
    if len(prototypes) == 1:
        return torch.from_numpy(prototypes[0][None])
    widest = max(array.shape[-1] for array in prototypes)
    stacked = np.zeros((len(prototypes), len(prototypes[0]), widest))
    for row, array in zip(stacked, prototypes, strict=True):
        row[:, : array.shape[-1]] = array
    return torch.from_numpy(stacked)

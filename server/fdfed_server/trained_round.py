"""What a round's updates gave, as its record tells it; from updates in the clear, or from sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdfed.evaluation.results import SiteRound, TapLoss, Traffic
from fdfed.exchange import ExchangeStats
from fdfed.privacy import ContributionLayout, Measures
from fdfed.wire import MaskedResult, TrainResult, Weights
from fdfed_server.run_state import GlobalModel
from fdfed_server.site_reply import Attempt
from fdfed_server.update_bound import Bounded


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRound:
    """The aggregate of one round's updates."""

    server_round: int
    attempt: int
    model: GlobalModel
    alpha_used: NDArray[np.float64]
    sites: Mapping[str, SiteRound]
    accepted: tuple[str, ...]
    losses: Mapping[str, TapLoss]
    exchanges: tuple[ExchangeStats, ...]
    traffic: Traffic
    drift: float | None
    """√(Σ_s w_s ‖W_s − W̄‖²): how far apart the sites' weights ended; None if they stay there, or
    only their sum is known."""
    loss_seg: float | None = None
    """Mean of L_seg over sites by examples."""


@dataclass(slots=True)
class Accepted:
    """The accepted answers of a round, less their weights."""

    results: dict[str, TrainResult] = field(default_factory=dict)
    moves: dict[str, float] = field(default_factory=dict)
    """‖W_s − W‖ of each, as it came."""
    bounded: dict[str, Bounded] = field(default_factory=dict)
    """What the bound made of each."""
    refused: dict[str, str] = field(default_factory=dict)
    bytes_up: int = 0

    @property
    def shares(self) -> NDArray[np.float64]:
        """`(sites,)`: n_s / N of each."""
        examples = np.array([r.num_examples for r in self.results.values()], np.float64)
        shares: NDArray[np.float64] = examples / examples.sum()
        return shares

    def stacked(self, name: str) -> NDArray[np.float64]:
        """`(sites, taps)`: a vector that each result has, such as `fd`."""
        return np.stack([getattr(result, name) for result in self.results.values()])


def plain_round(
    asked: Attempt,
    sent: GlobalModel,
    model: GlobalModel,
    accepted: Accepted,
    *,
    exch: NDArray[np.float64],
    moved: bool,
    drift: float | None,
) -> TrainedRound:
    """The round of updates in the clear.

    Args:
        sent: what the sites trained from.
        model: what their updates made of it.
        exch: `(sites, taps)`: the cross-site terms.
        moved: whether the distance that a site's weights moved says anything.
    """
    results, shares, fd = accepted.results, accepted.shares, accepted.stacked("fd")
    sites = {
        site: SiteRound(
            loss_seg=_or_none(result.loss_seg),
            loss_fd=_mean_known(result.fd),
            num_examples=result.num_examples,
            drift=accepted.moves[site] if moved else None,
            seconds=_or_none(result.seconds),
            bounded_to=accepted.bounded[site].scaled_to,
            clipped=accepted.bounded[site].clipped or None,
            **_exchanged(result.exchange),
        )
        for site, result in results.items()
    }
    exchanges = tuple(result.exchange for result in results.values())
    return TrainedRound(
        server_round=asked.server_round,
        attempt=asked.number,
        model=model,
        alpha_used=sent.alpha,
        sites=sites | {site: SiteRound(refused=why) for site, why in accepted.refused.items()},
        accepted=tuple(results),
        losses={
            tap: TapLoss(fd=_weighted(fd[:, i], shares), exch=_weighted(exch[:, i], shares))
            for i, tap in enumerate(asked.layout.names)
        },
        exchanges=exchanges,
        traffic=_traffic(
            exchanges,
            up=accepted.bytes_up,
            down=nbytes_of(sent.weights) * (len(results) + len(accepted.refused)),
        ),
        drift=drift,
        loss_seg=float(np.array([r.loss_seg for r in results.values()]) @ shares),
    )


def masked_round(
    asked: Attempt,
    sent: GlobalModel,
    model: GlobalModel,
    measures: Measures,
    results: Mapping[str, MaskedResult],
) -> TrainedRound:
    """The round of sums alone. What would need one site's update is None."""
    exchanges = tuple(result.exchange for result in results.values())
    numbers = ContributionLayout.of(model.weights, taps=asked.layout.taps).size
    return TrainedRound(
        server_round=asked.server_round,
        attempt=asked.number,
        model=model,
        alpha_used=sent.alpha,
        sites={
            site: SiteRound(
                num_examples=asked.examples[site],
                seconds=result.seconds,
                **_exchanged(result.exchange),
            )
            for site, result in results.items()
        },
        accepted=tuple(results),
        losses={
            tap: TapLoss(fd=_or_none(measures.fd[i]), exch=_or_none(measures.exch[i]))
            for i, tap in enumerate(asked.layout.names)
        },
        exchanges=exchanges,
        traffic=_traffic(
            exchanges,
            up=8 * numbers * len(results),
            down=nbytes_of(sent.weights) * len(results),
        ),
        drift=None,
        loss_seg=measures.loss_seg,
    )


def nbytes_of(weights: Mapping[str, NDArray[Any]]) -> int:
    """Bytes that the weights take on their way."""
    if isinstance(weights, Weights):
        return weights.nbytes
    return sum(value.nbytes for value in weights.values())


def _traffic(exchanges: tuple[ExchangeStats, ...], *, up: int, down: int) -> Traffic:
    """The round's bytes: its messages, and what the exchange added."""
    return Traffic(
        up=up + sum(stats.bytes_up for stats in exchanges),
        down=down + sum(stats.bytes_down for stats in exchanges),
    )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean_known(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _weighted(values: NDArray[np.float64], shares: NDArray[np.float64]) -> float | None:
    known = ~np.isnan(values)
    if not known.any():
        return None
    return float((values[known] * shares[known]).sum() / shares[known].sum())


def _exchanged(stats: ExchangeStats) -> dict[str, Any]:
    """A round's exchange at one site, for its record; nothing where there was none."""
    names = ("answered", "dropped", "staleness_mean", "staleness_max")
    return {name: getattr(stats, name) for name in names} if stats.steps else {}

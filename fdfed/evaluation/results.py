"""What a run reports: the frozen form of `results.json`.

    {"sites": {NAME: {"dice", "iou", "n_train", "n_val", "n_test", …}}, "rounds": […],
     "alpha": {TAP: value}, "exchange": {…}, "bytes": {"up", "down"}, "seconds": {…},
     "privacy": {…}, "config": {…}, "versions": {…}, …}

Dice and IoU are fractions. A value that does not exist (withheld, not yet measured, NaN) is null.
Later versions may add keys; a reader leaves out those it does not know.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

from fdfed.config import Unit
from fdfed.evaluation.aggregates import Aggregate
from fdfed.evaluation.joining import Joining
from fdfed.exchange import ExchangeStats

_LIBRARIES: Final = ("fdfed", "torch", "monai", "flwr", "numpy", "cryptography")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteResult:
    """One site's test scores with the run's final model; `None` where the site withheld them."""

    dice: float | None
    """Mean over the scored test images, as a fraction."""
    iou: float | None
    n_train: int
    n_val: int
    n_test: int
    n_scored: int | None = None
    """Test images behind the means."""
    n_empty: int | None = None
    """Test images left out because their annotation is empty."""
    dice_sd: float | None = None
    dice_q25: float | None = None
    dice_median: float | None = None
    dice_q75: float | None = None
    iou_sd: float | None = None

    @classmethod
    def of(
        cls, dice: Aggregate | None, iou: Aggregate | None, *, n_train: int, n_val: int, n_test: int
    ) -> SiteResult:
        """The result of a site that reported these aggregates, or none."""
        if dice is None or iou is None:
            return cls(dice=None, iou=None, n_train=n_train, n_val=n_val, n_test=n_test)
        return cls(
            dice=dice.mean,
            iou=iou.mean,
            n_train=n_train,
            n_val=n_val,
            n_test=n_test,
            n_scored=dice.n,
            n_empty=dice.n_empty,
            dice_sd=dice.sd,
            dice_q25=dice.q25,
            dice_median=dice.median,
            dice_q75=dice.q75,
            iou_sd=iou.sd,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePrivacy:
    """What one site has spent under differential privacy, by its own ledger."""

    epsilon: float
    """Over everything it released, earlier runs included."""
    delta: float
    unit: Unit
    """What is protected, by add or remove of one."""
    units: int
    """Training units of the site."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRound:
    """One site in one round."""

    loss_seg: float | None = None
    """Mean of L_seg over the round's steps."""
    loss_fd: float | None = None
    """Mean over taps of the site's L_fd (Eq. 1); not weighted by α."""
    val_dice: float | None = None
    """Mean validation Dice of the round's aggregated model at this site."""
    val_iou: float | None = None
    num_examples: int | None = None
    drift: float | None = None
    """Euclidean distance of the site's weights from those it was sent. This and the losses are None
    where aggregation is masked: nobody but the site has them."""
    seconds: float | None = None
    answered: int | None = None
    """Steps that had a cross-site term; `None` in a round without the exchange."""
    dropped: int | None = None
    """Steps whose cross-site term was left out."""
    staleness_mean: float | None = None
    """Steps by which the replies used were late, on average."""
    staleness_max: int | None = None
    refused: str | None = None
    """Why the site's update was left out of the aggregate; `None` if it was folded in."""
    bounded_to: float | None = None
    """The norm that its update was scaled down to before it entered; `None` if it entered as long
    as it came (`drift`)."""
    clipped: int | None = None
    """Running statistics of its update that were clipped; `None` if none were."""
    privacy: SitePrivacy | None = None
    """As the site reported it with its scores; `None` without differential privacy."""

    @property
    def why_bounded(self) -> str | None:
        """What of its update was bounded, after the site's name; `None` if nothing was."""
        found = []
        if self.bounded_to is not None and self.drift is not None:
            found.append(f"moved by {self.drift:.4g} and counts as {self.bounded_to:.4g}")
        if self.clipped is not None:
            found.append(f"had {self.clipped} running statistics clipped")
        return " and ".join(found) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class TapLoss:
    """One tap in one round, averaged over sites by examples."""

    fd: float | None = None
    """L_fd of the tap (Eq. 1), in nats."""
    exch: float | None = None
    """L_fd^exch of the tap (Eq. 4), in nats; `None` where nothing was exchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes between coordinator and all sites; `up` leaves the sites."""

    up: int = 0
    down: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One completed round."""

    round: int
    phase: int
    """1 while only L_seg is trained, 2 afterwards."""
    attempt: int = 1
    """Which attempt met the quorum."""
    sites: Mapping[str, SiteRound] = field(default_factory=dict)
    alpha: Mapping[str, float] = field(default_factory=dict)
    """α of each tap that the round was trained with."""
    losses: Mapping[str, TapLoss] = field(default_factory=dict)
    seconds: float | None = None
    bytes: Traffic = field(default_factory=Traffic)
    pairs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Mean over the round's steps of −log of the squared distance between the foreground of one
    site and the background of the other (Eq. 4), by `"site site"` and tap; of a site with itself,
    its own (Eq. 1). Empty where nothing was exchanged, or among too many sites."""
    drift: float | None = None
    """How far apart the sites' weights ended: √(Σ_s w_s ‖W_s − W̄‖²), w_s = n_s / N. None where
    aggregation is masked."""
    loss_seg: float | None = None
    """L_seg over the round's steps, averaged over sites by examples."""

    @property
    def mean_val_dice(self) -> float | None:
        """Unweighted mean over the sites that reported a validation Dice; NaN is no report."""
        known = [record.val_dice for record in self.sites.values() if is_known(record.val_dice)]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeResult:
    """The per-batch exchange over the whole run, all sites together; zeros where there was none."""

    steps: int = 0
    """Steps in which a site sent its prototypes."""
    answered: int = 0
    """Steps that had a reply to use in time."""
    dropped: int = 0
    """Steps whose cross-site term was left out."""
    peers_mean: float = 0.0
    """Mean number of peers in a reply."""
    staleness_mean: float = 0.0
    """Steps by which the replies used were late, on average; 0 in lockstep."""
    staleness_max: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    swap_ms_p50: float | None = None
    """Median wait from sending prototypes to having the cotangents, in milliseconds."""
    swap_ms_p99: float | None = None

    @classmethod
    def of(cls, stats: Sequence[ExchangeStats]) -> ExchangeResult:
        """All sites and rounds together; the median of their median waits."""
        waits = [entry for entry in stats if entry.answered]
        return cls(
            steps=sum(entry.steps for entry in stats),
            answered=sum(entry.answered for entry in stats),
            dropped=sum(entry.dropped for entry in stats),
            peers_mean=_mean_answered(waits, "peers_mean"),
            staleness_mean=_mean_answered(waits, "staleness_mean"),
            staleness_max=max((entry.staleness_max for entry in waits), default=0),
            bytes_up=sum(entry.bytes_up for entry in stats),
            bytes_down=sum(entry.bytes_down for entry in stats),
            swap_ms_p50=statistics.median(e.swap_ms_p50 for e in waits) if waits else None,
            swap_ms_p99=max(e.swap_ms_p99 for e in waits) if waits else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyResult:
    """What protected the run, and what left each site."""

    differential_privacy: bool = False
    epsilon: float | None = None
    """The largest ε of a site, composed over all its releases; `None` without differential privacy:
    none is claimed. Sites hold different patients, so their ε do not add up."""
    delta: float | None = None
    """The largest δ of a site."""
    sites: Mapping[str, SitePrivacy] = field(default_factory=dict)
    """What each site last reported; empty without differential privacy."""
    weights_protected: bool = False
    """Whether ε speaks of the weights. If not, it speaks of the prototypes alone."""
    stopped: str | None = None
    """Why training ended before the plan's last round, if a budget was spent."""
    secure_aggregation: bool = False
    transport: str = "in one process"
    """Such as `mTLS`; `in one process` for a simulation."""
    sealed: bool = False
    """Whether prototypes were encrypted from agent to hub, beneath the transport."""
    blinded: bool = False
    """Whether the hub saw prototypes only under the sites' secret isometry."""
    min_count: int = 1
    """Fewest images behind an aggregate that a site hands on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """The scores of one test image; stays at the site, or in a simulation."""

    site: str
    name: str
    dice: float | None
    iou: float | None
    foreground_pixels: int
    empty: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResults:
    """Everything that `results.json` holds, apart from per-image rows."""

    sites: Mapping[str, SiteResult]
    rounds: tuple[RoundRecord, ...]
    alpha: Mapping[str, float]
    """α of each tap at the end of the run."""
    exchange: ExchangeResult = field(default_factory=ExchangeResult)
    bytes: Traffic = field(default_factory=Traffic)
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall-clock seconds by part of the run, with their sum under `total`."""
    privacy: PrivacyResult = field(default_factory=PrivacyResult)
    config: Mapping[str, Any]
    """The run plan."""
    versions: Mapping[str, str]
    phantoms: bool = False
    """Whether the run saw built-in phantoms instead of images."""
    best_round: int | None = None
    """The round with the highest unweighted mean over sites of validation Dice."""
    warm_start_round: int | None = None
    """The round of phase 1 whose weights phase 2 began with: the best or the last, by the plan."""
    model_round: int | None = None
    """The round whose weights the model file holds."""
    final_model: str | None = None
    """The model file's name, beside `results.json`."""
    joining: Mapping[str, Joining] = field(default_factory=dict)
    """By site, whether joining helped it. Only from a simulation or at the site, and only if the
    site trained a model of its own to compare with; a coordinator has none."""


def _mean_answered(stats: Sequence[ExchangeStats], name: str) -> float:
    """The mean over all answered steps of what each entry has the mean of."""
    answered = sum(entry.answered for entry in stats)
    total = sum(float(getattr(entry, name)) * entry.answered for entry in stats)
    return total / answered if answered else 0.0


def is_known(value: float | None) -> TypeGuard[float]:
    """Whether a measured value exists; NaN stands for one that does not, as `None` does."""
    return value is not None and math.isfinite(value)


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide a result; those absent are left out."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions

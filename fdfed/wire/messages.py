"""The messages: one frozen dataclass each, with its way into a record and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from fdfed.config import RunPlan
from fdfed.evaluation.aggregates import Aggregate
from fdfed.evaluation.results import SitePrivacy
from fdfed.exchange import ExchangeStats
from fdfed.exchange.group_secret import MAX_EPOCH, MAX_OFFER
from fdfed.membership.roster import MAX_ROSTER
from fdfed.wire.record import (
    MAX_EXAMPLES,
    MAX_SIGNATURE,
    Part,
    Reader,
    as_text,
    as_vector,
    build_record,
)
from fdfed.wire.stats import STATS_KEYS, read_stats, stats_entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Coordinator → site: this is the plan; say what you have for it."""

    plan: RunPlan
    plan_signature: str = ""
    """By the coordinator (`fdfed.membership.plan_signature`); empty in a simulation."""
    run_id: str

    def to_record(self) -> RecordDict:
        header = {"plan": self.plan.to_json(), "plan_signature": self.plan_signature}
        return build_record("prepare", {**header, "run_id": self.run_id})

    @classmethod
    def from_record(cls, record: RecordDict) -> Prepare:
        reader = Reader(record, "prepare", ("plan", "plan_signature", "run_id"))
        return cls(
            plan=reader.plan(),
            plan_signature=reader.text("plan_signature", limit=MAX_SIGNATURE),
            run_id=reader.run_id(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Site → coordinator: counts alone; nothing about any one image."""

    site: str
    num_train: int
    num_validation: int
    num_test: int
    num_empty: int
    """Images whose annotation is empty (normals), over all parts; 0 with differential privacy, when
    the number is not released."""
    phantoms: bool
    version: str

    def to_record(self) -> RecordDict:
        names = ("num_train", "num_validation", "num_test", "num_empty", "phantoms", "version")
        return build_record("prepared", {"site": self.site, **{n: getattr(self, n) for n in names}})

    @classmethod
    def from_record(cls, record: RecordDict) -> Prepared:
        counts = ("num_train", "num_validation", "num_test", "num_empty")
        reader = Reader(record, "prepared", ("site", "phantoms", "version", *counts))
        return cls(
            site=reader.text("site"),
            phantoms=reader.flag("phantoms"),
            version=reader.text("version"),
            **{name: reader.integer(name, 0, MAX_EXAMPLES) for name in counts},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterRelay:
    """Coordinator → site: the consortium's roster, which the site verifies for itself."""

    roster: str
    signatures: str

    def to_record(self) -> RecordDict:
        return build_record("roster", {"roster": self.roster, "signatures": self.signatures})

    @classmethod
    def from_record(cls, record: RecordDict) -> RosterRelay:
        reader = Reader(record, "roster", ("roster", "signatures"))
        return cls(
            roster=reader.text("roster", limit=MAX_ROSTER),
            signatures=reader.text("signatures", limit=_MAX_SIGNATURES),
        )


_MAX_SIGNATURES: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterInForce:
    """Site → coordinator: the roster that this site goes by now."""

    version: int
    digest: str

    def to_record(self) -> RecordDict:
        return build_record("in-force", {"version": self.version, "digest": self.digest})

    @classmethod
    def from_record(cls, record: RecordDict) -> RosterInForce:
        reader = Reader(record, "in-force", ("version", "digest"))
        return cls(version=reader.integer("version", 1, 10**9), digest=reader.digest("digest"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRequest:
    """Coordinator → one site: make the secret that blinds an attempt of a round."""

    run_id: str
    server_round: int
    attempt: int
    members: tuple[str, ...]
    """The sites that the secret is for."""
    after_epoch: int
    """The latest epoch that the coordinator knows of; the new one must be later."""

    def to_record(self) -> RecordDict:
        header = {name: getattr(self, name) for name in _REQUEST_SCALARS}
        return build_record("secret", header | {"members": json.dumps(self.members)})

    @classmethod
    def from_record(cls, record: RecordDict) -> SecretRequest:
        reader = Reader(record, "secret", (*_REQUEST_SCALARS, "members"))
        return cls(
            run_id=reader.run_id(),
            server_round=reader.integer("server_round", 1, 10**9),
            attempt=reader.integer("attempt", 1, 1_000_000),
            members=reader.sites("members"),
            after_epoch=reader.integer("after_epoch", 0, MAX_EPOCH),
        )


_REQUEST_SCALARS: Final = ("run_id", "server_round", "attempt", "after_epoch")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretOffer:
    """Site → coordinator: the secret, sealed to each member; the coordinator can but relay it."""

    epoch: int
    text: str

    def to_record(self) -> RecordDict:
        return build_record("offered", {"epoch": self.epoch, "text": self.text})

    @classmethod
    def from_record(cls, record: RecordDict) -> SecretOffer:
        reader = Reader(record, "offered", ("epoch", "text"))
        return cls(
            epoch=reader.integer("epoch", 1, MAX_EPOCH),
            text=reader.text("text", limit=MAX_OFFER),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainInstruction:
    """Coordinator → site: train one round from these weights with this α."""

    plan: RunPlan
    plan_signature: str = ""
    run_id: str
    server_round: int
    attempt: int
    phase: Literal[1, 2]
    total_examples: int
    """N: training images of all sites that were asked this round; a site's cotangents count
    N / n_s, because the aggregation weights sites by n_s / N."""
    best_round: int
    """The round whose weights were the best by validation so far, 0 before any: the site keeps
    what it needs to go back there."""
    offer: str = ""
    """The secret that blinds this round, sealed to each site (`fdfed.exchange.group_secret`); empty
    where nothing is exchanged, or the secret follows from the plan."""
    masking_keys: tuple[str, ...] = ()
    """The signed key of every site of the attempt (`fdfed.privacy.masking_keys`): the set among
    which updates are masked; empty where aggregation is plain."""
    alpha: NDArray[np.float64]
    """One weight a tap, in the network's tap order."""
    target: NDArray[np.float64] | None
    """c of the dual update, one a tap; None before it is known, NaN at a tap never measured."""
    cotangents: NDArray[np.float64] | None = None
    """With differential privacy: those of the site's projected prototypes, from the release of an
    earlier round; None where there is none."""
    weights: Mapping[str, NDArray[Any]]

    def to_record(self) -> RecordDict:
        vectors = {"alpha": self.alpha}
        if self.target is not None:
            vectors["target"] = self.target
        if self.cotangents is not None:
            vectors["cotangents"] = self.cotangents
        scalars = {name: getattr(self, name) for name in _TRAIN_SCALARS}
        header = {"plan": self.plan.to_json(), "run_id": self.run_id, **scalars}
        header["masking_keys"] = json.dumps(self.masking_keys)
        return build_record("train", header, vectors=vectors, weights=self.weights)

    @classmethod
    def from_record(cls, record: RecordDict) -> TrainInstruction:
        keys = ("plan", "run_id", "tensors", "masking_keys", *_TRAIN_SCALARS)
        reader = Reader(record, "train", keys)
        plan = reader.plan()
        return cls(
            plan=plan,
            plan_signature=reader.text("plan_signature", limit=MAX_SIGNATURE),
            run_id=reader.run_id(),
            server_round=reader.integer("server_round", 1, plan.rounds),
            attempt=reader.integer("attempt", 1, 1_000_000),
            phase=reader.phase(),
            total_examples=reader.integer("total_examples", 1, MAX_EXAMPLES),
            best_round=reader.integer("best_round", 0, plan.rounds),
            offer=reader.text("offer", limit=MAX_OFFER),
            masking_keys=reader.texts("masking_keys", limit=MAX_OFFER),
            alpha=reader.vector("alpha"),
            target=reader.vector("target", may_be_nan=True)
            if reader.has_vector("target")
            else None,
            cotangents=reader.vector("cotangents") if reader.has_vector("cotangents") else None,
            weights=reader.weights(),
        )


_TRAIN_SCALARS: Final = (
    "plan_signature",
    "server_round",
    "attempt",
    "phase",
    "total_examples",
    "best_round",
    "offer",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """Site → coordinator: the weights after a round, its α proposal, and means over its steps."""

    run_id: str
    server_round: int
    attempt: int
    num_examples: int
    loss_seg: float
    """Mean of L_seg over the round's steps. NaN with differential privacy, as are `seconds`, `fd`,
    `exch` and `valid`: each says something of the images that no noise covers."""
    seconds: float
    alpha: NDArray[np.float64]
    """The proposed α, not clipped, one a tap."""
    fd: NDArray[np.float64]
    """Mean of L_fd over the round's steps, one a tap; NaN where no image was valid."""
    exch: NDArray[np.float64]
    """Mean of the global L_fd^exch over the round's answered steps, one a tap; NaN where none."""
    valid: NDArray[np.float64]
    """Share of the round's steps in which the tap's prototypes were valid."""
    exchange: ExchangeStats = field(default_factory=ExchangeStats)
    released: NDArray[np.float64] | None = None
    """With differential privacy: the noisy mean of the site's projected prototypes; None in a round
    that releases none."""
    weights: Mapping[str, NDArray[Any]]

    def to_record(self) -> RecordDict:
        header = {name: getattr(self, name) for name in _RESULT_SCALARS}
        vectors = {name: getattr(self, name) for name in _RESULT_VECTORS}
        if self.released is not None:
            vectors["released"] = self.released
        header |= stats_entries(self.exchange)
        return build_record("trained", header, vectors=vectors, weights=self.weights)

    @classmethod
    def from_record(cls, record: RecordDict) -> TrainResult:
        reader = Reader(record, "trained", ("tensors", *_RESULT_SCALARS, *STATS_KEYS))
        return cls(
            run_id=reader.run_id(),
            server_round=reader.integer("server_round", 1, 10**9),
            attempt=reader.integer("attempt", 1, 1_000_000),
            num_examples=reader.integer("num_examples", 1, MAX_EXAMPLES),
            loss_seg=reader.number("loss_seg", may_be_nan=True),
            seconds=reader.number("seconds", may_be_nan=True),
            alpha=reader.vector("alpha"),
            fd=reader.vector("fd", may_be_nan=True),
            exch=reader.vector("exch", may_be_nan=True),
            valid=reader.vector("valid", may_be_nan=True),
            released=reader.vector("released") if reader.has_vector("released") else None,
            exchange=read_stats(reader),
            weights=reader.weights(),
        )


_RESULT_SCALARS: Final = (
    "run_id",
    "server_round",
    "attempt",
    "num_examples",
    "loss_seg",
    "seconds",
)
_RESULT_VECTORS: Final = ("alpha", "fd", "exch", "valid")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateInstruction:
    """Coordinator → site: score these weights on one part of your split."""

    plan: RunPlan
    plan_signature: str = ""
    run_id: str
    server_round: int
    """The round that made the weights; tensors that stay at the site are taken from it too."""
    part: Part
    weights: Mapping[str, NDArray[Any]]

    def to_record(self) -> RecordDict:
        header = {
            "plan": self.plan.to_json(),
            "plan_signature": self.plan_signature,
            "run_id": self.run_id,
            "server_round": self.server_round,
            "part": self.part,
        }
        return build_record("evaluate", header, weights=self.weights)

    @classmethod
    def from_record(cls, record: RecordDict) -> EvaluateInstruction:
        reader = Reader(
            record,
            "evaluate",
            ("plan", "plan_signature", "run_id", "server_round", "part", "tensors"),
        )
        plan = reader.plan()
        return cls(
            plan=plan,
            plan_signature=reader.text("plan_signature", limit=MAX_SIGNATURE),
            run_id=reader.run_id(),
            server_round=reader.integer("server_round", 0, plan.rounds),
            part=reader.part(),
            weights=reader.weights(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult:
    """Site → coordinator: aggregates over at least the plan's minimum count of images, or none."""

    run_id: str
    server_round: int
    part: Part
    dice: Aggregate | None
    iou: Aggregate | None
    """None when fewer than `min_count` images were scored: too few to hide one among."""
    privacy: SitePrivacy | None = None
    """What the site has spent so far; None without differential privacy."""

    def to_record(self) -> RecordDict:
        withheld = self.dice is None or self.iou is None
        header = {
            "run_id": self.run_id,
            "server_round": self.server_round,
            "part": self.part,
            "withheld": withheld,
            "privacy": as_text(self.privacy),
        }
        vectors = {}
        if self.dice is not None and self.iou is not None:
            vectors = {"dice": as_vector(self.dice), "iou": as_vector(self.iou)}
        return build_record("evaluated", header, vectors=vectors)

    @classmethod
    def from_record(cls, record: RecordDict) -> EvaluateResult:
        keys = ("run_id", "server_round", "part", "withheld", "privacy")
        reader = Reader(record, "evaluated", keys)
        withheld = reader.flag("withheld")
        return cls(
            run_id=reader.run_id(),
            server_round=reader.integer("server_round", 0, 10**9),
            part=reader.part(),
            dice=None if withheld else reader.aggregate("dice"),
            iou=None if withheld else reader.aggregate("iou"),
            privacy=reader.site_privacy("privacy"),
        )

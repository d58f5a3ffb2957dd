"""The messages of masked aggregation: the ready phase, and the answer under masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from fdfed.exchange import ExchangeStats
from fdfed.privacy.masking_keys import MAX_ANNOUNCEMENT
from fdfed.wire.record import Reader, build_record
from fdfed.wire.stats import STATS_KEYS, read_stats, stats_entries
from fdfed.wire.weights import Integers


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyRequest:
    """Coordinator → site: an attempt of a round begins; announce a key for it."""

    run_id: str
    server_round: int
    attempt: int

    def to_record(self) -> RecordDict:
        return build_record("ready", {name: getattr(self, name) for name in _ATTEMPT})

    @classmethod
    def from_record(cls, record: RecordDict) -> ReadyRequest:
        reader = Reader(record, "ready", _ATTEMPT)
        return cls(
            run_id=reader.run_id(),
            server_round=reader.integer("server_round", 1, 10**9),
            attempt=reader.integer("attempt", 1, 1_000_000),
        )


_ATTEMPT: Final = ("run_id", "server_round", "attempt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Site → coordinator: it takes part, with this signed key; the coordinator relays it."""

    announcement: str

    def to_record(self) -> RecordDict:
        return build_record("is-ready", {"announcement": self.announcement})

    @classmethod
    def from_record(cls, record: RecordDict) -> Ready:
        reader = Reader(record, "is-ready", ("announcement",))
        return cls(announcement=reader.text("announcement", limit=MAX_ANNOUNCEMENT))


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedResult:
    """Site → coordinator: a `TrainResult` of which weights, α, losses and examples are under masks
    (`fdfed.privacy`). In the clear are times and the exchange's counts, which the coordinator
    measures itself anyway."""

    run_id: str
    server_round: int
    attempt: int
    seconds: float
    exchange: ExchangeStats = field(default_factory=ExchangeStats)
    values: NDArray[np.uint64] | Integers
    """`(size,)` of the plan's `ContributionLayout`, modulo 2⁶⁴; as received, it may lie on disk."""

    def to_record(self) -> RecordDict:
        header = {name: getattr(self, name) for name in (*_ATTEMPT, "seconds")}
        return build_record(
            "masked", header | stats_entries(self.exchange), masked=_array(self.values)
        )

    @classmethod
    def from_record(cls, record: RecordDict) -> MaskedResult:
        reader = Reader(record, "masked", (*_ATTEMPT, "seconds", *STATS_KEYS))
        return cls(
            run_id=reader.run_id(),
            server_round=reader.integer("server_round", 1, 10**9),
            attempt=reader.integer("attempt", 1, 1_000_000),
            seconds=reader.number("seconds"),
            exchange=read_stats(reader),
            values=reader.masked(),
        )


def _array(values: NDArray[np.uint64] | Integers) -> NDArray[np.uint64]:
    return values.whole() if isinstance(values, Integers) else values

"""What the exchange did in a round, as entries of a result's header."""

from __future__ import annotations

from typing import Any, Final

from fdfed.config import MAX_STALENESS
from fdfed.exchange import ExchangeStats
from fdfed.wire.record import Reader

_STATS: Final = (
    "steps",
    "answered",
    "dropped",
    "peers_mean",
    "staleness_mean",
    "staleness_max",
    "bytes_up",
    "bytes_down",
    "swap_ms_p50",
    "swap_ms_p99",
)
STATS_KEYS: Final = tuple(f"exchange_{name}" for name in _STATS)


def stats_entries(stats: ExchangeStats) -> dict[str, Any]:
    """The entries for `stats`."""
    return {f"exchange_{name}": getattr(stats, name) for name in _STATS}


def read_stats(reader: Reader) -> ExchangeStats:
    """The statistics in a header that holds `STATS_KEYS`.

    Raises:
        WireError: for one of the wrong type or out of range.
    """
    return ExchangeStats(
        steps=reader.integer("exchange_steps", 0, 2**31),
        answered=reader.integer("exchange_answered", 0, 2**31),
        dropped=reader.integer("exchange_dropped", 0, 2**31),
        peers_mean=reader.number("exchange_peers_mean"),
        staleness_mean=reader.number("exchange_staleness_mean"),
        staleness_max=reader.integer("exchange_staleness_max", 0, MAX_STALENESS),
        bytes_up=reader.integer("exchange_bytes_up", 0, 2**62),
        bytes_down=reader.integer("exchange_bytes_down", 0, 2**62),
        swap_ms_p50=reader.number("exchange_swap_ms_p50"),
        swap_ms_p99=reader.number("exchange_swap_ms_p99"),
    )

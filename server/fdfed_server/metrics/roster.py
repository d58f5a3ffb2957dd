"""The roster as Prometheus metrics: its version, and until when certificates are valid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fdfed.membership.roster import Roster


class RosterCollector(Collector):
    """Yields the metrics of the roster in force, which may change while a run goes on.

    Args:
        certificate_ends: until when each certificate is valid, by what it is.
    """

    def __init__(
        self,
        roster: Callable[[], Roster],
        *,
        certificate_ends: Callable[[], Mapping[str, datetime]],
    ) -> None:
        self._roster = roster
        self._certificate_ends = certificate_ends

    def collect(self) -> Iterator[Metric]:
        """The metrics, newly read."""
        yield GaugeMetricFamily(
            "fdfed_roster_version", "Version of the roster in force.", value=self._roster().version
        )
        expiry = GaugeMetricFamily(
            "fdfed_certificate_expiry_timestamp_seconds",
            "Until when a certificate is valid, Unix time.",
            labels=("certificate",),
        )
        for what, end in self._certificate_ends().items():
            expiry.add_metric((what,), end.timestamp())
        yield expiry

"""The exchange hub's counters as Prometheus metrics, read when somebody looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fdfed.exchange import ExchangeCode
from fdfed_server.hub import HubSnapshot

_DIRECTIONS: Final = ("in", "out")


class HubCollector(Collector):
    """Yields the hub's metrics; costs nothing between two scrapes.

    Args:
        snapshot: the hub's counters now.
        sites: all sites of the run, which bound the label `site`.
        online: those whose exchange stream is open now.
    """

    def __init__(
        self,
        snapshot: Callable[[], HubSnapshot],
        *,
        sites: Sequence[str],
        online: Callable[[], Collection[str]],
    ) -> None:
        self._snapshot = snapshot
        self._sites = tuple(sites)
        self._online = online

    def collect(self) -> Iterator[Metric]:
        """The metrics, newly read."""
        yield from self._streams(set(self._online()))
        yield from _exchange(self._snapshot())

    def _streams(self, online: set[str]) -> Iterator[Metric]:
        each = GaugeMetricFamily(
            "fdfed_site_online",
            "1 while the site's exchange stream is open, else 0.",
            labels=("site",),
        )
        for site in self._sites:
            each.add_metric((site,), float(site in online))
        yield each
        yield GaugeMetricFamily(
            "fdfed_sites_online",
            "Sites of the run whose exchange stream is open.",
            value=len(online.intersection(self._sites)),
        )


def _exchange(hub: HubSnapshot) -> Iterator[Metric]:
    for name, text, values in (
        ("frames", "Frames of the exchange", (hub.frames_in, hub.frames_out)),
        ("bytes", "Bytes of numbers in the frames", (hub.bytes_in, hub.bytes_out)),
    ):
        counter = CounterMetricFamily(
            f"fdfed_exchange_{name}",
            f"{text}, by direction as the hub sees it.",
            labels=("direction",),
        )
        for direction, count in zip(_DIRECTIONS, values, strict=True):
            counter.add_metric((direction,), count)
        yield counter
    steps = CounterMetricFamily(
        "fdfed_exchange_steps",
        "Steps answered: with every site that was present, or at the deadline without one.",
        labels=("outcome",),
    )
    steps.add_metric(("complete",), hub.steps_complete)
    steps.add_metric(("past_deadline",), hub.steps_past_deadline)
    yield steps
    refused = CounterMetricFamily(
        "fdfed_exchange_refused",
        "Frames and streams that the hub refused, by the public code.",
        labels=("code",),
    )
    for code in ExchangeCode:
        refused.add_metric((code.name,), hub.refused.get(code, 0))
    yield refused
    absent = GaugeMetricFamily(
        "fdfed_exchange_sites_absent",
        "Sites that the open round of the exchange does not wait for any more.",
        value=len(hub.absent),
    )
    yield absent
    terms = GaugeMetricFamily(
        "fdfed_exchange_last_term",
        "Cross-site term L_exch of the last answered step, in nats, by tap.",
        labels=("tap",),
    )
    for tap, value in hub.latest_terms.items():
        if math.isfinite(value):
            terms.add_metric((tap,), value)
    yield terms

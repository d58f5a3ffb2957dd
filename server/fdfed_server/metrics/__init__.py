"""What the coordinator measures, for Prometheus."""

from fdfed_server.metrics.hub import HubCollector
from fdfed_server.metrics.roster import RosterCollector
from fdfed_server.metrics.run import RunMetrics

__all__ = ["HubCollector", "RosterCollector", "RunMetrics"]

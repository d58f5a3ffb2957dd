"""A whole federation in one process, on the objects of the deployment."""

from fdfed.simulation.grid import InProcessGrid
from fdfed.simulation.run import Progress, open_sites, simulate, simulate_sites

__all__ = ["InProcessGrid", "Progress", "open_sites", "simulate", "simulate_sites"]

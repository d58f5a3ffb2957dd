"""A whole federation in one process, on the objects of the deployment."""

from fdfed.simulation.grid import InProcessGrid
from fdfed.simulation.run import Progress, simulate

__all__ = ["InProcessGrid", "Progress", "simulate"]

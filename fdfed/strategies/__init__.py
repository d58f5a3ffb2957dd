"""Strategies: which tensors travel, and what the coordinator makes of their mean."""

from fdfed.strategies.averaging import Arrays, Averaging, Local, LocalNormalisation
from fdfed.strategies.create import create_strategy

__all__ = ["Arrays", "Averaging", "Local", "LocalNormalisation", "create_strategy"]

"""Strategies by name."""

from __future__ import annotations

from typing import Final

from fdfed import plugins
from fdfed.config import STRATEGY_NAMES, ServerPlan
from fdfed.strategies.averaging import Averaging, Local, LocalNormalisation
from fdfed.strategies.server_optimizer import ServerAdam, ServerMomentum, ServerOptimizer

_UNLIKE_AVERAGING: Final[dict[str, type[Averaging]]] = {
    "fedbn": LocalNormalisation,
    "local": Local,
}
_OPTIMIZERS: Final[dict[str, type[ServerOptimizer]]] = {
    "fedadam": ServerAdam,
    "fedavgm": ServerMomentum,
}
"""The others average: `fedprox` adds a term at the site, `pooled` has one site, and `fdfed` is
averaging with the loss `fd+exch`."""


def create_strategy(name: str, server: ServerPlan | None = None) -> Averaging:
    """The strategy of that name: built in, or what an installed package offers under
    `fdfed.strategies`.

    Args:
        server: the coordinator's optimiser, for the strategies that have one; None is the default.

    Raises:
        InvalidInput: if no such strategy is installed.
    """
    if name in _OPTIMIZERS:
        return _OPTIMIZERS[name](server or ServerPlan())
    if name in STRATEGY_NAMES:
        return _UNLIKE_AVERAGING.get(name, Averaging)()
    return plugins.load("fdfed.strategies", name, Averaging, built_in=STRATEGY_NAMES)()

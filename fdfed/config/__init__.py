"""What a run does, said once and held by both sides: the run plan, its tables, how it is read."""

from fdfed.config.defence import DefencePlan
from fdfed.config.frozen import Count, Frozen, Seconds, SiteName
from fdfed.config.method import AlphaMode, AlphaPlan, MethodPlan, preset
from fdfed.config.privacy import (
    PrivacyPlan,
    PrototypesPrivacy,
    Unit,
    WeightsPrivacy,
    releases_prototypes,
)
from fdfed.config.reading import parse, read_json, read_toml
from fdfed.config.run_plan import (
    DISCREPANCY_LOSSES,
    LOSS_NAMES,
    MAX_STALENESS,
    STRATEGY_NAMES,
    ExchangePlan,
    RunPlan,
    ServerPlan,
    SplitPlan,
    warm_rounds,
)

__all__ = [
    "DISCREPANCY_LOSSES",
    "LOSS_NAMES",
    "MAX_STALENESS",
    "STRATEGY_NAMES",
    "AlphaMode",
    "AlphaPlan",
    "Count",
    "DefencePlan",
    "ExchangePlan",
    "Frozen",
    "MethodPlan",
    "PrivacyPlan",
    "PrototypesPrivacy",
    "RunPlan",
    "Seconds",
    "ServerPlan",
    "SiteName",
    "SplitPlan",
    "Unit",
    "WeightsPrivacy",
    "parse",
    "preset",
    "read_json",
    "read_toml",
    "releases_prototypes",
    "warm_rounds",
]

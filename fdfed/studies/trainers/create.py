"""Trainers by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from fdfed.config import RunPlan
from fdfed.data import SiteData
from fdfed.errors import InvalidInput
from fdfed.studies.trainers.class_prototypes import ClassPrototypes, MultiLevelPrototypes
from fdfed.studies.trainers.loop import Trainer
from fdfed.studies.trainers.personal import Ditto, FineTuning
from fdfed.studies.trainers.scaffold import Scaffold

_TRAINERS: Final[dict[str, type[Trainer]]] = {
    "scaffold": Scaffold,
    "ditto": Ditto,
    "fine-tuning": FineTuning,
    "fedproto": ClassPrototypes,
    "fedbcs": MultiLevelPrototypes,
}

TRAINER_NAMES: Final = tuple(_TRAINERS)


def create_trainer(
    name: str,
    plan: RunPlan,
    sites: Mapping[str, SiteData],
    folder: Path,
    parameters: Mapping[str, float],
    *,
    device: torch.device | None = None,
) -> Trainer:
    """The trainer of that name, at the round that `folder` holds.

    Raises:
        InvalidInput: for another name, or a plan or parameters that it does not take.
    """
    if name not in _TRAINERS:
        raise InvalidInput(f"there is no trainer {name}; use one of: {', '.join(_TRAINERS)}")
    return _TRAINERS[name](plan, sites, folder, parameters, device)

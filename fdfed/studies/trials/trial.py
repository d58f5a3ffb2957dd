"""What one trial of a study is: a run plan with who trains it and on which images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fdfed.config import RunPlan
from fdfed.studies.trainers import TRAINER_NAMES

ALGORITHM_1: Final = "algorithm-1"
"""The method of a trial that is no simulation: pooled training by the paper's Algorithm 1."""

SHAM: Final = "sham"
"""The trainer that is the simulation with a sham exchange."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried: a method in a configuration, on one fold with one seed."""

    group: str
    """The sites together, such as `histology`."""
    method: str
    config: str
    """What differs from the method's base configuration, such as `lr=3e-3`; `base`: nothing."""
    plan: RunPlan
    trainer: str = ""
    """Who trains it: one of `fdfed.studies.trainers`, `SHAM`; else the simulation."""
    parameters: Mapping[str, float] = field(default_factory=dict)
    """The trainer's."""
    opens_test: bool = False
    """Whether it may read the plan's test images. A trial that may not and has some is refused, so
    that nothing is chosen on them."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """The part of a site's training images that it has, or above 1 their number, by site; all of
    them where nothing is said. Subsets are nested."""
    joins_after: int = 0
    """All sites but the first join after this round; 0: all are there from the start."""
    evaluate: tuple[str, ...] = ()
    """Sites beside the plan's that the final common model is tested on, with all images that the
    plan's split leaves: it was trained on none of them."""
    diagnosed: bool = False
    """Whether its result has `taps`, which take as long as a round or two. Not part of its name."""

    @property
    def name(self) -> str:
        """The trial's folder: a digest of what the study says explicitly in the plan. Equal trials
        are one, however often a study asks for them, and keep their name when a later version
        adds a setting to the plan."""
        said = self.plan.model_dump(mode="json", exclude_unset=True)
        said |= {
            key: value
            for key in ("trainer", "parameters", "shares", "joins_after", "evaluate")
            if (value := getattr(self, key))
        }
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def has_own_loop(self) -> bool:
        """Whether it is trained by a loop that the study has, not by the simulation."""
        return self.method == ALGORITHM_1 or self.trainer in TRAINER_NAMES

    @property
    def shelf(self) -> Path | None:
        """Where trials with the same training images keep the phases 1 that they share, below the
        study's shelf; None of a trial that shares none: others join in the middle of it, or it is
        trained by a loop of its own."""
        if self.joins_after or self.has_own_loop:
            return None
        if not self.shares:
            return Path()
        text = json.dumps(self.shares, sort_keys=True)
        return Path(f"part-{hashlib.sha256(text.encode()).hexdigest()[:16]}")

    @property
    def replicate(self) -> tuple[int, int]:
        """(fold, seed)."""
        return self.plan.split.fold or 0, self.plan.seed

"""The rounds of a federation before the other sites join it, trained once for all who join."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from fdfed.data import SiteData
from fdfed.evaluation.results import RoundRecord
from fdfed.simulation import Progress, simulate_sites
from fdfed.studies.trials.trial import Trial
from fdfed_server.observer import Observer, Several


class BeforeJoining:
    """The first site's federation, up to the round after which the others join it.

    It does not depend on who joins, nor on how many images they bring: trials that differ in these
    alone take the state that the first of them left on the shelf, which is theirs bit for bit.
    """

    def __init__(self, trial: Trial, run: Path, shelf: Path | None) -> None:
        """
        Args:
            run: the folder of the trial's run.
        """
        self._rounds, self._run = trial.joins_after, run
        self._plan = trial.plan.model_copy(update={"sites": trial.plan.sites[:1]})
        name = f"before-joining-{self._rounds}-{self._plan.digest[:16]}"
        self._kept = None if shelf is None else shelf / name

    def take(self) -> bool:
        """Whether the state was on the shelf and is the run's now; of a run that has begun, not."""
        state = self._run / "state"
        if self._kept is None or not self._kept.exists() or state.exists():
            return False
        _copy(self._kept, state)
        return True

    def train(
        self, sites: Mapping[str, SiteData], device: torch.device, progress: Progress
    ) -> None:
        """Trains these rounds, or what is left of them, and leaves the state on the shelf."""
        observers = Several([progress.observer, _UntilJoining(self._rounds)])
        with contextlib.suppress(_Joining):
            simulate_sites(
                self._plan,
                {name: sites[name] for name in self._plan.sites},
                out=self._run,
                device=device,
                progress=replace(progress, observer=observers),
            )
        if self._kept is not None and not self._kept.exists():
            _copy(self._run / "state", self._kept)


class _Joining(Exception):
    """The other sites join now."""


class _UntilJoining(Observer):
    """Ends a run after a round; the run's state is that of the round."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    def round_finished(self, record: RoundRecord) -> None:
        if record.round == self._rounds:
            raise _Joining


def _copy(source: Path, target: Path) -> None:
    """In one move, so that what is there is whole."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, part)
    try:
        part.rename(target)
    except OSError:  # another trial was first, with the same state
        shutil.rmtree(part)

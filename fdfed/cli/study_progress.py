"""A study as a person wants to watch it: a bar for its trials, one for each that is under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import TaskID

from fdfed.process.progress_bars import TerminalBars
from fdfed.studies import Trial, TrialResult, completed_rounds, folder_of


class StudyBars(TerminalBars):
    """Shows a study on a terminal; without a terminal, prints a line a trial."""

    def __init__(self, console: Console, out: Path) -> None:
        super().__init__(console, label_width=48)
        self._out = out
        self._all = self._bars.add_task("trials asked for so far", total=None)
        self._tasks: dict[str, TaskID] = {}

    def looked(
        self, running: Sequence[Trial], asked: Sequence[Trial], results: Mapping[str, TrialResult]
    ) -> None:
        names = {trial.name for trial in asked}
        self._bars.update(self._all, total=len(names), completed=len(names & results.keys()))
        for name in self._tasks.keys() - {trial.name for trial in running}:
            self._bars.remove_task(self._tasks.pop(name))
        for trial in running:
            if trial.name not in self._tasks:
                task = self._bars.add_task(title(trial), total=trial.plan.rounds)
                self._tasks[trial.name] = task
            rounds = completed_rounds(folder_of(self._out, trial))
            self._bars.update(self._tasks[trial.name], completed=rounds)

    def finished(self, trial: Trial, result: TrialResult) -> None:
        score = "no score" if result.score is None else f"Dice {100 * result.score:.1f}"
        self._console.print(f"{title(trial)}  {score}", highlight=False)


def title(trial: Trial) -> str:
    """The trial in a line, such as `histology fd bound=normalise, fold 0, seed 0`."""
    fold, seed = trial.replicate
    return f"{trial.group} {trial.method} {trial.config}, fold {fold}, seed {seed}"

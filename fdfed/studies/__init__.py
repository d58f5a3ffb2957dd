"""Whole experiments: many runs, their tables and figures, on the simulation."""

from fdfed.studies.schedule import TrialFailed, Watcher, run_agenda
from fdfed.studies.trials import (
    Trial,
    TrialResult,
    completed_rounds,
    folder_of,
    load_results,
    run_trial,
)

__all__ = [
    "Trial",
    "TrialFailed",
    "TrialResult",
    "Watcher",
    "completed_rounds",
    "folder_of",
    "load_results",
    "run_agenda",
    "run_trial",
]

"""One trial of a study: what it is, how it is trained, what its result says."""

from fdfed.studies.trials.result import TrialResult, load_results
from fdfed.studies.trials.running import completed_rounds, final_network, folder_of, run_trial
from fdfed.studies.trials.trial import ALGORITHM_1, SHAM, Trial

__all__ = [
    "ALGORITHM_1",
    "SHAM",
    "Trial",
    "TrialResult",
    "completed_rounds",
    "final_network",
    "folder_of",
    "load_results",
    "run_trial",
]

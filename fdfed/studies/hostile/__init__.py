"""One hostile site in four: what it does to the others, with and without each defence."""

from fdfed.studies.hostile.pages import write_hostile_page, write_hostile_study
from fdfed.studies.hostile.study import SOURCES, load_hostile_results, run_hostile_study

__all__ = [
    "SOURCES",
    "load_hostile_results",
    "run_hostile_study",
    "write_hostile_page",
    "write_hostile_study",
]

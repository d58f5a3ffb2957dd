"""The studies that `fdfed study` runs, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fdfed.studies import defaults, staleness, staleness_files, study_files
from fdfed.studies.baselines import files as baselines
from fdfed.studies.baselines.agenda import Stage, agenda
from fdfed.studies.baselines.configuration import Configuration
from fdfed.studies.schedule import Agenda
from fdfed.studies.trials import TrialResult

Results = Mapping[str, TrialResult]


@dataclass(frozen=True, slots=True)
class Study:
    """What is trained, on whose images, and what is made of the results."""

    sites: tuple[str, ...]
    """Whose held-out patients are checked before anything is trained."""
    agenda: Agenda
    write_study: Callable[[Path, Results], None]
    write_page: Callable[[Path, Results], None]


STUDIES: Final[Mapping[str, Study]] = MappingProxyType(
    {
        "defaults": Study(
            defaults.SITES, defaults.agenda, study_files.write_study, study_files.write_page
        ),
        "staleness": Study(
            staleness.SITES,
            staleness.agenda,
            staleness_files.write_study,
            staleness_files.write_page,
        ),
    }
)


def comparison_study(stage: Stage, configuration: Configuration) -> Study:
    """The comparison with other methods, at a stage of its protocol.

    Raises:
        InvalidInput: if the stage is confirmatory and the configuration is not frozen.
    """
    content, report = configuration.content, baselines.Report(stage, configuration)
    trials = agenda(stage, content)
    return Study(
        tuple(site for group in content.groups.values() for site in group.sites),
        lambda _: trials,
        report.write_study,
        report.write_page,
    )

"""The studies that `fdfed study` runs, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from fdfed.errors import InvalidInput
from fdfed.studies.addition import agenda as additions
from fdfed.studies.addition import files as addition
from fdfed.studies.baselines import files as baselines
from fdfed.studies.baselines.agenda import Stage, agenda, check_frozen
from fdfed.studies.baselines.configuration import Configuration
from fdfed.studies.defaults import agenda as defaults
from fdfed.studies.defaults import files as defaults_files
from fdfed.studies.observations import files as observations
from fdfed.studies.observations.pictures import TITLES, PictureReport, view_of
from fdfed.studies.observations.views import VIEWS
from fdfed.studies.schedule import Agenda
from fdfed.studies.staleness import agenda as staleness
from fdfed.studies.staleness import files as staleness_files
from fdfed.studies.trials import TrialResult
from fdfed.studies.variants import files as variants
from fdfed.studies.variants.designs import DESIGNS, UNSEEN_SITE
from fdfed.studies.variants.hospitals import make_hospitals

Results = Mapping[str, TrialResult]


@dataclass(frozen=True, slots=True)
class Study:
    """What is trained, on whose images, and what is made of the results."""

    sites: tuple[str, ...]
    """Whose held-out patients are checked before anything is trained."""
    agenda: Agenda
    write_study: Callable[[Path, Results], None]
    write_page: Callable[[Path, Results], None]
    prepare: Callable[[Path, Path], Path] = lambda data, _: data
    """Given the folders of data and study, makes the data folder that trials read."""

    def of_first_seeds(self, count: int) -> Study:
        """The same study without the trials of seeds from `count` on: their cells stay empty."""
        return replace(
            self, agenda=lambda done: [t for t in self.agenda(done) if t.plan.seed < count]
        )


STUDIES: Final[Mapping[str, Study]] = MappingProxyType(
    {
        "defaults": Study(
            defaults.SITES, defaults.agenda, defaults_files.write_study, defaults_files.write_page
        ),
        "staleness": Study(
            staleness.SITES,
            staleness.agenda,
            staleness_files.write_study,
            staleness_files.write_page,
        ),
    }
)


_FIGURE_7: Final = "figure7"
"""The paper's name for the data-addition study."""

COMPARISONS: Final = ("baselines", addition.STUDY, _FIGURE_7, *DESIGNS, *VIEWS, *TITLES)
"""The studies that read the configuration of the comparison and have its stages."""


class _Report(Protocol):
    """Writes what a study has to say."""

    def write_study(self, out: Path, results: Results) -> None:
        """Tables, figures and `study.json` in `out`."""
        ...

    def write_page(self, page: Path, results: Results) -> None:
        """The results section of its page."""
        ...


def staged_study(name: str, stage: Stage, configuration: Configuration, data: Path) -> Study:
    """One of `COMPARISONS`, at a stage of the protocol, on the images in `data`.

    Raises:
        InvalidInput: if the stage is confirmatory and the configuration is not frozen, or the study
            has no such stage.
    """
    content = configuration.content
    if stage == "tuning" and name != "baselines":
        raise InvalidInput(f"the study {name} has no stage tuning; that of baselines serves it")
    check_frozen(stage, content)
    report: _Report
    if name == "baselines":
        trials, report = agenda(stage, content), baselines.Report(stage, configuration)
    elif name in (addition.STUDY, _FIGURE_7):
        trials = additions.agenda(stage, content)
        report = addition.Report(stage, configuration)
    elif name in DESIGNS:
        trials = DESIGNS[name].agenda(stage, content)
        report = variants.Report(stage, configuration, DESIGNS[name])
    elif name in VIEWS:
        trials = VIEWS[name].design.agenda(stage, content)
        report = observations.Report(stage, configuration, VIEWS[name])
    else:
        kind = next(kind for kind in TITLES if kind == name)
        trials = view_of(kind).design.agenda(stage, content)
        report = PictureReport(kind, stage, configuration, data)
    return Study(
        tuple(site for group in content.groups.values() for site in group.sites),
        lambda _: trials,
        report.write_study,
        report.write_page,
        make_hospitals if name == UNSEEN_SITE.name else lambda data, _: data,
    )

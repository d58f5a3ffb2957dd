"""How a study with the comparison's stages is written down: beside its trials, and in its page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from fdfed.studies.baselines.agenda import Stage
from fdfed.studies.baselines.configuration import Configuration
from fdfed.studies.page import rewrite_results, write_document
from fdfed.studies.trials import Trial, TrialResult

Results = Mapping[str, TrialResult]
Found = TypeVar("Found")
"""What a study makes of its results: its tables, before they are text."""


@dataclass(frozen=True, slots=True)
class StagedReport(ABC, Generic[Found]):
    """Writes what a study has to say at a stage."""

    stage: Stage
    configuration: Configuration

    @property
    @abstractmethod
    def study(self) -> str:
        """Its name, which its files have too."""

    @abstractmethod
    def write_tables(self, folder: Path, results: Results, *, suffixes: Sequence[str]) -> Found:
        """CSV files, and each figure once a suffix, in `folder`; what they hold."""

    @abstractmethod
    def document(self, results: Results, found: Found) -> Mapping[str, Any]:
        """What `study.json` says beside the configuration."""

    @abstractmethod
    def section(self, results: Results, found: Found) -> str:
        """The results as Markdown."""

    def write_study(self, out: Path, results: Results) -> None:
        """Tables, figures (SVG and PNG) and `study.json` in `out`."""
        found = self.write_tables(out, results, suffixes=("svg", "png"))
        document = {"stage": self.stage, **self.document(results, found)}
        write_document(out, self.study, document, configuration=self.configuration)

    def write_page(self, page: Path, results: Results) -> None:
        """Rewrites the results section of `page`; tables and figures (SVG) go beside it.

        Raises:
            InvalidInput: if the page is missing or lacks the two marks around the section.
        """
        rewrite_results(
            page,
            self.study,
            lambda folder: self.write_tables(folder, results, suffixes=("svg",)),
            lambda found: self.section(results, found),
        )

    def progress(self, asked: Sequence[Trial], results: Results) -> str:
        """The first sentences of a section: stage, configuration, how much of it is done."""
        names = {trial.name for trial in asked}  # A study may ask for one trial twice.
        finished = len(names & results.keys())
        return (
            f"Stage: {self.stage}. Configuration SHA-256 `{self.configuration.sha256}`. "
            f"{finished} of {len(names)} trials are finished; other cells are empty."
        )
